//! The conformance kit: laws that every [`Store`] keeps, as functions over any implementation.
//!
//! A law gets a [`Subject`], which is a fresh store and a way to let its time pass, and says what is wrong
//! with it. Time may be driven by hand (nanoseconds, exact) or pass by itself (a store elsewhere); a law
//! allows for the subject's [tick](Subject::tick) and for the time its own calls take, and is never stricter
//! than the contract. Use it on a store of your own:
//!
//! ```
//! use ratelimit_core::testing::{self, Subject};
//! use ratelimit_core::{ManualClock, MemoryStore};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! async fn fresh() -> Subject<MemoryStore<ManualClock>> {
//!     let clock = ManualClock::default();
//!     Subject::driven(MemoryStore::with_clock(clock.clone()), clock)
//! }
//! assert_eq!(testing::violations(fresh).await, []);
//! # }
//! ```
//!
//! or, as one test a law (needs tokio's `macros` and `rt-multi-thread` among the dev-dependencies):
//!
//! ```
//! mod my_store {
//! #   use ratelimit_core::testing::Subject;
//! #   use ratelimit_core::{ManualClock, MemoryStore};
//!     async fn fresh() -> Subject<MemoryStore<ManualClock>> {
//! #       let clock = ManualClock::default();
//! #       return Subject::driven(MemoryStore::with_clock(clock.clone()), clock);
//!         // a store that no other test uses
//!     }
//!     ratelimit_core::store_laws!(fresh);
//! }
//! ```
//!
//! # What it does not judge
//! Speed, memory, and what a store does when it can't be reached. Needs a tokio runtime around it.

mod bounds;
mod operations;
mod parallel;
mod separation;
mod together;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use bounds::{
    bound_of_fixed_window, bound_of_sliding_window, bound_of_token_bucket, full_quota_comes_back,
    retry_after_is_tight,
};
pub use operations::{
    debit_goes_into_debt_and_no_further, denied_changes_nothing, more_than_the_capacity_is_never,
    peek_charges_nothing, permits_are_counted, post_is_made, refund_gives_back_what_time_has_not,
    reset_is_a_fresh_start, zero_charges_nothing,
};
pub use parallel::{
    dropped_calls_charge_at_most_once, parallel_all_or_nothing, parallel_permits, parallel_quota,
};
pub use separation::{keys_are_separate, limits_are_separate, overrides_share_state};
pub use together::{
    all_or_nothing, duplicates_are_both_charged, order_does_not_matter, shadow_never_vetoes,
    unconditional_follows_the_rest,
};

use crate::algorithm::{Op, Outcome};
use crate::key::{AsKey, KeyBuf};
use crate::limit::{Algorithm, Limit, LimitSpec};
use crate::rate::Rate;
use crate::store::{Charge, Store, Verdict};
use crate::time::{Clock, ManualClock, Nanos, SystemClock};

/// What a law finds: nothing, or what is wrong.
pub type Law = Result<(), String>;

/// A law that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Name of the law's function.
    pub law: &'static str,
    /// What happened, and what should have.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.law, self.message)
    }
}

impl std::error::Error for Violation {}

/// Returns from a law with what is wrong unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err(format!($($message)+));
        }
    };
}
use ensure;

/// All laws, handed to a macro.
#[doc(hidden)]
#[macro_export]
macro_rules! __for_each_store_law {
    ($with:ident $fresh:expr) => {
        $crate::$with! { $fresh;
            bound_of_token_bucket bound_of_sliding_window bound_of_fixed_window full_quota_comes_back
            retry_after_is_tight denied_changes_nothing peek_charges_nothing zero_charges_nothing
            more_than_the_capacity_is_never debit_goes_into_debt_and_no_further
            refund_gives_back_what_time_has_not reset_is_a_fresh_start permits_are_counted post_is_made
            all_or_nothing order_does_not_matter duplicates_are_both_charged shadow_never_vetoes
            unconditional_follows_the_rest keys_are_separate limits_are_separate overrides_share_state
            parallel_quota parallel_permits parallel_all_or_nothing dropped_calls_charge_at_most_once
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __store_law_tests {
    ($fresh:expr; $($law:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $law() {
            let subject = ($fresh)().await;
            if let Err(message) = $crate::testing::$law(&subject).await {
                panic!("{message}");
            }
        }
    )*};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __store_law_violations {
    ($fresh:expr; $($law:ident)*) => {{
        let mut violations = Vec::new();
        $(
            let subject = ($fresh)().await;
            if let Err(message) = $crate::testing::$law(&subject).await {
                violations.push($crate::testing::Violation { law: stringify!($law), message });
            }
        )*
        violations
    }};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __store_law_names {
    ($fresh:expr; $($law:ident)*) => { &[$(stringify!($law)),*] };
}

/// The names of all laws.
pub const LAWS: &[&str] = crate::__for_each_store_law!(__store_law_names());

/// Makes one `#[tokio::test]` for each law of [`testing`](crate::testing). The argument is an `async fn()` or
/// asynchronous closure that gives a fresh [`Subject`](crate::testing::Subject) each time.
#[macro_export]
macro_rules! store_laws {
    ($fresh:expr) => {
        $crate::__for_each_store_law!(__store_law_tests $fresh);
    };
}

/// Judges a store by all laws, with a fresh subject for each, and says which were broken.
pub async fn violations<S: Store, F: AsyncFn() -> Subject<S>>(fresh: F) -> Vec<Violation> {
    crate::__for_each_store_law!(__store_law_violations fresh)
}

/// A fresh store, and how its time passes. Clones share the store.
#[derive(Debug)]
pub struct Subject<S> {
    store: Arc<S>,
    hand: Hand,
    tick: Nanos,
}

/// Who moves the time.
#[derive(Clone, Debug)]
enum Hand {
    Ours(ManualClock),
    ItsOwn(SystemClock),
}

impl<S> Clone for Subject<S> {
    // Derived, it would ask for `S: Clone`.
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), hand: self.hand.clone(), tick: self.tick }
    }
}

impl<S: Store> Subject<S> {
    /// A store that goes by that clock and by nothing else, to the nanosecond.
    #[must_use]
    pub fn driven(store: S, clock: ManualClock) -> Self {
        Self { store: Arc::new(store), hand: Hand::Ours(clock), tick: Nanos::new(1) }
    }

    /// A store whose time passes by itself, in steps of a microsecond, at the pace of this machine's clock (to
    /// within 0.2 %) and near its UTC (to within 100 ms).
    #[must_use]
    pub fn waiting(store: S) -> Self {
        let hand = Hand::ItsOwn(SystemClock::default());
        Self { store: Arc::new(store), hand, tick: Nanos::new(1000) }
    }

    /// The same with other steps of time: how much later than promised a unit may be back, and how much the
    /// promise itself may be rounded.
    #[must_use]
    pub fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick.into();
        self
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.store
    }

    fn is_driven(&self) -> bool {
        matches!(self.hand, Hand::Ours(_))
    }

    fn now(&self) -> Nanos {
        match &self.hand {
            Hand::Ours(clock) => clock.now(),
            Hand::ItsOwn(clock) => clock.now(),
        }
    }

    fn utc(&self) -> Nanos {
        match &self.hand {
            Hand::Ours(clock) => clock.utc(),
            Hand::ItsOwn(clock) => clock.utc(),
        }
    }

    /// Lets that much time pass; more, where it passes by itself.
    async fn pass(&self, length: Nanos) {
        match &self.hand {
            Hand::Ours(clock) => clock.advance(length.into()),
            Hand::ItsOwn(_) => tokio::time::sleep(length.into()).await,
        }
    }

    /// Lets others run, and the store's own tasks.
    async fn settle(&self) {
        match &self.hand {
            Hand::Ours(_) => tokio::task::yield_now().await,
            Hand::ItsOwn(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }

    /// How far two clocks may drift apart in that time, and a tick.
    fn tolerance(&self, length: Nanos) -> Nanos {
        let drift = if self.is_driven() { 0 } else { length.get() / 500 };
        self.tick.saturating_add(Nanos::new(drift))
    }

    /// As a limiter asks: at once if the store can, else waiting.
    async fn decide(&self, charges: &[Charge<'_>]) -> Result<Verdict, String> {
        let verdict = match self.store.try_decide(charges) {
            Some(verdict) => verdict,
            None => self.store.decide(charges).await.map_err(|error| error.to_string())?,
        };
        let (asked, answered) = (charges.len(), verdict.outcomes.len());
        ensure!(asked == answered, "{asked} charges got {answered} outcomes");
        Ok(verdict)
    }

    async fn op(&self, limit: &Limit, key: &str, op: Op) -> Result<Outcome, String> {
        let key = encoded(key);
        let verdict = self.decide(&[Charge { limit, key: key.key(), op }]).await?;
        let outcome = verdict.outcomes.first().ok_or("no outcome")?;
        ensure!(
            verdict.admitted == (outcome.admitted || limit.is_shadow()),
            "{op:?} of {:?}: the verdict says {}, its only outcome {}",
            limit.name(),
            verdict.admitted,
            outcome.admitted
        );
        Ok(*outcome)
    }

    async fn take(&self, limit: &Limit, key: &str, units: u32) -> Result<Outcome, String> {
        self.op(limit, key, Op::Take(units)).await
    }

    /// Whole units left.
    async fn left(&self, limit: &Limit, key: &str) -> Result<u32, String> {
        Ok(self.op(limit, key, Op::Peek(1)).await?.remaining())
    }
}

fn encoded(key: impl AsKey) -> KeyBuf {
    let mut buffer = KeyBuf::new();
    key.encode(&mut buffer);
    buffer
}

/// Those that count units in time.
const TIMED: [Algorithm; 3] = [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow];
/// All four.
const ALL: [Algorithm; 4] =
    [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow, Algorithm::Concurrency];

/// A limit of `capacity` units that come back so slowly, in ten years, that none does while a law looks.
fn slow(name: &str, algorithm: Algorithm, capacity: u32) -> Result<Limit, String> {
    limit_of(slow_spec(name, algorithm, capacity)?)
}

fn slow_spec(name: &str, algorithm: Algorithm, capacity: u32) -> Result<LimitSpec, String> {
    // Aligned windows of 3660 days change in January 1980, 1990, … and every ten years from there.
    let years = Duration::from_secs(3660 * 86_400);
    let name = format!("{name}-{algorithm}");
    if algorithm == Algorithm::Concurrency {
        return Ok(LimitSpec::concurrency(name, capacity));
    }
    let rate = Rate::new(capacity, years).map_err(|error| error.to_string())?;
    Ok(LimitSpec { algorithm, ..LimitSpec::new(name, rate) })
}

/// A limit whose units come back soon.
fn quick(name: &str, algorithm: Algorithm, per_second: u32, burst: Option<u32>) -> Result<Limit, String> {
    let rate = Rate::new(per_second, Duration::from_secs(1)).map_err(|error| error.to_string())?;
    let burst = burst.filter(|_| algorithm == Algorithm::TokenBucket);
    limit_of(LimitSpec { algorithm, burst, ..LimitSpec::new(format!("{name}-{algorithm}"), rate) })
}

fn limit_of(spec: LimitSpec) -> Result<Limit, String> {
    Limit::try_from(spec).map_err(|error| error.to_string())
}
