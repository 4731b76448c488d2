//! The leased store over a store in memory that grants: the laws of every store, and what leases promise on top.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures"
)]

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ratelimit_core::algorithm::{Op, Outcome, Program, Receipt};
use ratelimit_core::store::{Charge, LocalStore, Origin, Store, Verdict};
use ratelimit_core::testing::Subject;
use ratelimit_core::time::Clock;
use ratelimit_core::{Key, Limit, Limiter, ManualClock, MemoryStore, Nanos, StoreError, StoreErrorKind};
use ratelimit_redis::lease::grant::{Grant, Level, grant};
use ratelimit_redis::lease::{Ask, Given, GrantSource, Kind, LeasedStore, Policy, Reply, Terms, Ticks};

const MICRO: u64 = 1000;

/// A memory store that also grants, as a shared one would, and counts its calls.
struct Granting {
    store: MemoryStore<ManualClock>,
    clock: ManualClock,
    /// A lease is several operations here.
    at_once: Mutex<()>,
    calls: AtomicU64,
    /// Leases fail while this is not zero.
    broken: AtomicU64,
}

impl Granting {
    fn new(clock: &ManualClock) -> Self {
        Self {
            store: MemoryStore::with_clock(clock.clone()),
            clock: clock.clone(),
            at_once: Mutex::default(),
            calls: AtomicU64::new(0),
            broken: AtomicU64::new(0),
        }
    }

    fn one(&self, limit: &Limit, key: Key<'_>, op: Op) -> Outcome {
        self.store.decide_one(Charge { limit, key, op })
    }

    fn grant(&self, limit: &Limit, key: Key<'_>, ask: &Ask) -> Reply {
        let _guard = self.at_once.lock().unwrap();
        let terms = Terms::of(limit).unwrap();
        let before = self.one(limit, key, Op::Peek(0));
        let (now, utc) = (self.clock.now().get(), self.clock.utc().get());
        let least = f64::from(ask.units.max(1));
        let (at, lapses) = match limit.program() {
            Program::TokenBucket(_) => (now / MICRO, None),
            Program::SlidingWindow(window) => {
                let cell = window.window().get().div_ceil(10);
                (now / MICRO, Some((now / cell + 1) * cell / MICRO))
            }
            _ => {
                let taken = self.one(limit, key, Op::Debit(0));
                assert!(taken.admitted);
                let window = terms.span * MICRO;
                (utc / MICRO, Some((utc / window + 1) * window / MICRO))
            }
        };
        let cap = terms.cap().to_script();
        let used = match terms.kind {
            Kind::Bucket => before.reset_after.get() as f64 / 1000.0,
            Kind::Window => f64::from(terms.capacity - before.remaining()),
        };
        let unit = terms.unit.to_script();
        let level = Level { used, cap, unit, lapses: lapses.map(|end| (end - at) as f64) };
        let given = match grant(level, ask.wish()) {
            Grant::Units(units) => {
                let taken = self.one(limit, key, Op::Take(units));
                assert!(taken.admitted, "a grant of {units} is no ordinary charge: {level:?} {ask:?}");
                let used = match terms.kind {
                    Kind::Bucket => taken.reset_after.get() / MICRO,
                    Kind::Window => u64::from(terms.capacity - taken.remaining()),
                };
                Given::Units { units, used: Ticks::from_micros(used), lapses: lapses.map(Ticks::from_micros) }
            }
            Grant::Missing(_) if before.retry_after.is_none() => {
                let refused = self.one(limit, key, Op::Peek(least as u32));
                Given::Refused(refused.retry_after.unwrap_or(Nanos::from_secs(1)))
            }
            Grant::Missing(micros) => Given::Refused(Nanos::new((micros * 1000.0).ceil() as u64)),
        };
        Reply { at, given }
    }
}

impl Store for Granting {
    fn try_decide(&self, _: &[Charge<'_>]) -> Option<Verdict> {
        None
    }

    async fn decide(&self, charges: &[Charge<'_>]) -> Result<Verdict, StoreError> {
        tokio::task::yield_now().await;
        self.calls.fetch_add(1, Ordering::Relaxed);
        let _guard = self.at_once.lock().unwrap();
        Ok(self.store.decide_now(charges))
    }

    fn post(&self, charge: Charge<'_>) {
        let _guard = self.at_once.lock().unwrap();
        self.store.post(charge);
    }
}

impl GrantSource for Granting {
    async fn lease(&self, limit: &Limit, key: Key<'_>, ask: &Ask) -> Result<Reply, StoreError> {
        tokio::task::yield_now().await;
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.broken.load(Ordering::Relaxed) > 0 {
            return Err(StoreError::new(StoreErrorKind::Timeout, "asking for a lease"));
        }
        Ok(self.grant(limit, key, ask))
    }

    fn end_of(&self, receipt: Receipt) -> Option<Ticks> {
        // The bucket counts in 1 024 000 ticks a microsecond.
        Some(Ticks::new((receipt.mark() << 20) / 1_024_000))
    }
}

fn leased(clock: &ManualClock) -> LeasedStore<Granting, ManualClock> {
    LeasedStore::with(Granting::new(clock), clock.clone(), Policy::default(), 1000)
}

mod laws {
    use super::*;

    async fn subject() -> Subject<LeasedStore<Granting, ManualClock>> {
        let clock = ManualClock::default();
        // Slots lapse by an estimate of the store's time that is two microseconds and 0.1 % late.
        Subject::driven(leased(&clock), clock).tick(Duration::from_micros(200))
    }

    ratelimit_core::store_laws!(subject);
}
