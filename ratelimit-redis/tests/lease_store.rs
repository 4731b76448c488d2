//! The leased store over a store in memory that grants: the laws of every store, and what leases promise on top.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use ratelimit_core::algorithm::{Op, Outcome, Program, Receipt};
use ratelimit_core::store::{Charge, LocalStore, Origin, Store, Verdict};
use ratelimit_core::testing::Subject;
use ratelimit_core::time::Clock;
use ratelimit_core::{
    Algorithm, Key, Limit, Limiter, ManualClock, MemoryStore, Nanos, StoreError, StoreErrorKind,
};
use ratelimit_redis::lease::grant::{Grant, Level, grant};
use ratelimit_redis::lease::{
    Ask, Given, GrantSource, Kind, LeasedStore, Next, Policy, Reply, Table, Terms, Ticks,
};

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

/// Drives the clock and asks, one request after the other; what was admitted, and by whom.
async fn ask(
    limiter: &Limiter<LeasedStore<Granting, ManualClock>>,
    limit: &Limit,
    key: &str,
) -> (bool, Origin) {
    let decision = limiter.check(limit, key).await.unwrap();
    (decision.is_allowed(), decision.origin())
}

/// Lets spawned refreshes finish.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_hot_key_is_decided_here_and_a_cold_one_by_the_store() {
    let clock = ManualClock::default();
    let limiter = Limiter::new(leased(&clock));
    let limit = Limit::new("hot", "5000/s".parse().unwrap());
    let mut leases = 0;
    for _ in 0..20_000 {
        clock.advance(Duration::from_micros(250));
        let (admitted, origin) = ask(&limiter, &limit, "hot").await;
        assert!(admitted);
        leases += u32::from(origin == Origin::Lease);
        settle().await;
    }
    let calls = limiter.store().source().calls.swap(0, Ordering::Relaxed);
    assert!(calls <= 400 && leases >= 19_600, "{calls} calls, {leases} of 20000 decided here");
    for _ in 0..50 {
        clock.advance(Duration::from_millis(500));
        assert_eq!(ask(&limiter, &limit, "cold").await, (true, Origin::Store));
    }
    assert_eq!(limiter.store().source().calls.load(Ordering::Relaxed), 50);
    assert!(limiter.store().leased_units() == 0, "what was held has lapsed");
}

#[tokio::test]
async fn a_denied_key_costs_a_call_a_second() {
    let clock = ManualClock::default();
    let limiter = Limiter::new(leased(&clock));
    let limit = Limit::new("denied", "6/min".parse().unwrap()).burst(60);
    for millis in 0..30_000 {
        clock.advance(Duration::from_millis(1));
        ask(&limiter, &limit, "k").await;
        if millis == 2000 {
            // The burst is gone.
            limiter.store().source().calls.store(0, Ordering::Relaxed);
        }
    }
    let calls = limiter.store().source().calls.load(Ordering::Relaxed);
    assert!(calls <= 34, "{calls} calls in 28 s");
}

/// Holds units of a key.
async fn warm(clock: &ManualClock, limiter: &Limiter<LeasedStore<Granting, ManualClock>>, limit: &Limit) {
    for _ in 0..40 {
        clock.advance(Duration::from_micros(300));
        ask(limiter, limit, "k").await;
        settle().await;
    }
    assert!(limiter.store().leased_units() > 0, "nothing is held");
}

#[tokio::test]
async fn reset_sleep_and_another_quota_drop_leases() {
    let clock = ManualClock::default();
    let limiter = Limiter::new(leased(&clock));
    let limit = Limit::new("drop", "1000/s".parse().unwrap());
    warm(&clock, &limiter, &limit).await;
    limiter.reset(&limit, "k").await.unwrap();
    assert_eq!(limiter.store().leased_units(), 0, "a reset key holds leases");
    warm(&clock, &limiter, &limit).await;
    clock.set_utc(Nanos::from_secs(2_000_000_000));
    assert_eq!(limiter.store().leased_units(), 0, "leases outlive a sleep");
    warm(&clock, &limiter, &limit).await;
    let other = limit.with_quota("500/s".parse().unwrap(), None).unwrap();
    let _ = limiter.check(&other, "k").await.unwrap();
    let decision = limiter.check(&other, "k").await.unwrap();
    assert!(decision.remaining() <= 500, "{decision:?}");
}

#[tokio::test]
async fn charges_after_the_fact_are_taken_from_what_is_held_or_sent_together() {
    let clock = ManualClock::default();
    let limiter = Limiter::new(leased(&clock));
    let limit = Limit::new("late", "1000/s".parse().unwrap()).debt(1000);
    warm(&clock, &limiter, &limit).await;
    let held = limiter.store().leased_units();
    limiter.debit(&limit, "k", 2);
    assert_eq!(limiter.store().leased_units(), held - 2);
    for _ in 0..10 {
        limiter.debit(&limit, "other", 50);
    }
    let left = limiter.peek(&limit, "other").await.unwrap().remaining();
    assert_eq!(left, 500, "what is owed is sent before the key is asked about");
}

#[tokio::test]
async fn what_is_given_back_can_be_spent_until_its_time() {
    let clock = ManualClock::default();
    let limiter = Limiter::new(leased(&clock));
    let limit = Limit::new("back", "1000/s".parse().unwrap());
    warm(&clock, &limiter, &limit).await;
    let held = limiter.store().leased_units();
    let reserved = limiter.reserve(&limit, "k", 5).await.unwrap().unwrap();
    assert_eq!(limiter.store().leased_units(), held - 5);
    ask(&limiter, &limit, "k").await;
    reserved.settle(1);
    assert_eq!(
        limiter.store().leased_units(),
        held - 2,
        "4 of 5 come back, though another was charged since"
    );
    clock.advance(Duration::from_secs(1));
    assert_eq!(limiter.store().leased_units(), 0);
}

#[tokio::test]
async fn without_leases_the_store_decides() {
    let clock = ManualClock::default();
    let limiter = Limiter::new(leased(&clock));
    limiter.store().source().broken.store(1, Ordering::Relaxed);
    let limit = Limit::new("broken", "1000/s".parse().unwrap());
    for _ in 0..100 {
        clock.advance(Duration::from_micros(100));
        assert_eq!(ask(&limiter, &limit, "k").await, (true, Origin::Store));
    }
}

/// Requests that are given up while their question is under way leave nobody waiting.
#[tokio::test]
async fn requests_that_are_given_up_stop_nobody() {
    let clock = ManualClock::default();
    let limiter = Limiter::new(leased(&clock));
    let limit = Limit::new("given-up", "1000/s".parse().unwrap());
    for round in 0..200 {
        clock.advance(Duration::from_micros(100));
        let call = limiter.check(&limit, "k");
        let impatient = tokio::time::timeout(Duration::ZERO, call);
        if round % 2 == 0 {
            let _ = impatient.await;
        } else {
            let waiting = tokio::time::timeout(Duration::from_secs(5), limiter.check(&limit, "k"));
            assert!(waiting.await.expect("nobody waits for ever").unwrap().is_allowed());
        }
    }
}

/// Who waits for a question waits for that one, and is not woken by the end of another that is over already.
#[test]
fn a_question_that_is_over_wakes_nobody() {
    let table = Table::new(Policy::default(), 10);
    let limit = Limit::new("over", "1000/s".parse().unwrap());
    let (id, terms) = (table.id(&limit, Key::GLOBAL), table.terms(&limit, 1).unwrap());
    let ask = || {
        let asks =
            (0..1000).find_map(|micros| match table.arrive(id, Nanos::new(micros * MICRO), 1, &terms) {
                Next::Ask(ask) => Some(ask),
                _ => None,
            });
        asks.expect("a hot key is asked about")
    };
    let first = ask();
    table.unanswered(id, &first);
    let second = ask();
    let mut waiting = Box::pin(table.under_way(id).unwrap());
    table.unanswered(id, &first);
    assert!(waiting.as_mut().now_or_never().is_none());
    table.unanswered(id, &second);
    assert!(waiting.as_mut().now_or_never().is_some());
}

/// Three replicas on one store, greedy traffic: no window is admitted more than its limit, and nearly all of it is
/// used.
#[tokio::test]
async fn windows_are_kept_by_all_replicas_together() {
    for (algorithm, seed) in [Algorithm::SlidingWindow, Algorithm::FixedWindow].into_iter().zip(0..) {
        let clock = ManualClock::default();
        let source = Arc::new(Granting::new(&clock));
        let with = |_| LeasedStore::with(Arc::clone(&source), clock.clone(), Policy::default(), 1000);
        let replicas: Vec<_> = (0..3).map(with).map(Limiter::new).collect();
        let limit = Limit::new("windows", "2000/s".parse().unwrap()).algorithm(algorithm);
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut admitted, mut asked, mut leased) = (Vec::new(), 0, 0);
        let end = clock.now().saturating_add(Nanos::from_secs(5));
        while clock.now() < end {
            clock.advance(Duration::from_micros(rng.u64(1..300)));
            asked += 1;
            let decision = replicas[rng.usize(0..3)].check(&limit, "k").await.unwrap();
            leased += u32::from(decision.origin() == Origin::Lease);
            if decision.is_allowed() {
                admitted.push((clock.now().get(), clock.utc().whole_secs()));
            }
        }
        for (first, &(start, window)) in admitted.iter().enumerate() {
            let inside = |&&(at, of): &&(u64, u64)| match algorithm {
                Algorithm::SlidingWindow => at < start + 1_000_000_000,
                _ => of == window,
            };
            let units = admitted[first..].iter().take_while(inside).count();
            assert!(units <= 2000, "{algorithm}: {units} of 2000 in a window that begins at {start}");
        }
        let calls = source.calls.load(Ordering::Relaxed);
        let units = admitted.len();
        println!("{algorithm}: {calls} calls for {asked} requests, {units} admitted, {leased} out of leases");
        // A sliding window gives back by tenths; of the first of eleven nothing is lost.
        assert!(units >= 5 * 2000 * 85 / 100, "{algorithm}: {units} of 10000 used");
        assert!(leased > 5000 && calls * 10 < asked, "{algorithm}: {leased} leased, {calls} calls");
    }
}
