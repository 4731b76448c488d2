//! The token bucket against a bucket that holds tokens, and its bound over every interval of every trace.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "tests"
)]

mod oracle;

use std::collections::BTreeSet;

use oracle::{Event, HELD_UP, SECOND, Tokens, holds_in_every_interval};
use proptest::prelude::*;
use ratelimit_core::algorithm::{Gcra, Op, Outcome, Receipt};
use ratelimit_core::{MAX_PER_SECOND, MAX_PERIOD_SECONDS, Nanos};

#[derive(Clone, Copy, Debug)]
struct Quota {
    count: u32,
    period: u64,
    burst: u32,
    debt: u32,
}

impl Quota {
    fn bucket(&self) -> Gcra {
        Gcra::new(self.count, Nanos::new(self.period), self.burst, self.debt).unwrap()
    }

    /// Ticks of 2⁻¹⁰ ns between two units, never rounded down.
    fn ticks(&self) -> u128 {
        let (whole, count) = (u128::from(self.period) * 1024, u128::from(self.count));
        whole / count + u128::from(!whole.is_multiple_of(count))
    }

    /// Nanoseconds between two units, rounded up.
    fn unit(&self) -> u64 {
        self.period.div_ceil(u64::from(self.count))
    }

    /// Nanoseconds from the deepest debt to the first unit that is there again, and to a full bucket.
    fn longest_wait(&self) -> u64 {
        u64::try_from((self.ticks() * (u128::from(self.burst) + u128::from(self.debt))).div_ceil(1024))
            .unwrap()
    }

    fn bound(&self, events: &[Event]) -> Result<(), TestCaseError> {
        holds_in_every_interval(events, self.burst.into(), self.count.into(), self.period.into())
            .map_err(TestCaseError::fail)
    }
}

/// Time is counted for 36 years. Traces keep to the first half, and what they can owe to the second.
const HALF_TIME: u64 = 1 << 59;

/// From one in ten years to ten million a second.
fn quota() -> impl Strategy<Value = Quota> {
    let seconds = prop_oneof![Just(1u32), 1u32..=3600, Just(86_400), Just(MAX_PERIOD_SECONDS)];
    (0u32..=32, any::<u32>(), seconds, 1u32..=20, prop_oneof![Just(0u32), 0u32..=20]).prop_filter_map(
        "fills within 18 years",
        |(bits, count, seconds, burst, debt)| {
            let most = (u64::from(seconds) * u64::from(MAX_PER_SECOND)).min(u64::from(u32::MAX)) as u32;
            let count = (u64::from(count) & ((1u64 << bits) - 1)).clamp(1, u64::from(most)) as u32;
            let period = u64::from(seconds) * SECOND;
            let quota = Quota { count, period, burst, debt };
            (quota.ticks() * u128::from(burst + debt) < u128::from(HALF_TIME) << 10).then_some(quota)
        },
    )
}

/// How much later something happens: in thousandths of the time in which a unit comes back, and nanoseconds.
fn pause() -> impl Strategy<Value = (u64, u64)> {
    let thousandths =
        prop_oneof![4 => Just(0u64), 3 => 0u64..1000, 2 => Just(1000), 2 => 0u64..5000, 1 => 0u64..40_000];
    (thousandths, prop_oneof![3 => Just(0u64), 1 => 0u64..3])
}

fn later(now: u64, pause: (u64, u64), quota: &Quota) -> u64 {
    let span = u128::from(quota.unit()) * u128::from(pause.0) / 1000;
    (now + u64::try_from(span).unwrap() + pause.1).min(HALF_TIME)
}

fn operation() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u32..=4).prop_map(Op::Take),
        1 => (0u32..=25).prop_map(Op::Take),
        1 => (0u32..=25).prop_map(Op::Peek),
        1 => (0u32..=25).prop_map(Op::Debit),
        1 => (0u32..=25).prop_map(|units| Op::Refund(units, None)),
        1 => Just(Op::Reset),
    ]
}

/// A key: its state and what has to be true of every step.
#[derive(Default)]
struct Key(u128);

impl Key {
    fn step(&mut self, quota: &Quota, now: u64, op: Op) -> Outcome {
        let (next, outcome) = quota.bucket().step(self.0, Nanos::new(now), op);
        if let Some(next) = next {
            assert!(next < 1 << 71, "{next} does not fit a slot");
            self.0 = next;
        }
        outcome
    }
}

/// The oracle's word on the same operation; true: it admits.
fn judged(tokens: &mut Tokens, burst: u32, op: Op) -> bool {
    match op {
        Op::Take(units) => units <= burst && tokens.take(units),
        Op::Peek(units) => units <= burst && tokens.clone().take(units),
        Op::Debit(units) => {
            tokens.debit(units);
            true
        }
        Op::Refund(units, _) => {
            tokens.refund(units);
            true
        }
        _ => {
            tokens.balance = tokens.capacity;
            true
        }
    }
}

fn agree(
    outcome: &Outcome,
    before: &Tokens,
    after: &Tokens,
    burst: u32,
    op: Op,
    admits: bool,
) -> Result<(), String> {
    let said = (
        outcome.admitted,
        outcome.remaining(),
        outcome.reset_after.get(),
        outcome.retry_after.map(Nanos::get),
    );
    let wait = match op {
        Op::Take(units) | Op::Peek(units) if !admits && units <= burst => Some(before.wait_for(units)),
        _ => None,
    };
    let right = (admits, after.remaining(), after.wait_for_all(), wait);
    if said == right { Ok(()) } else { Err(format!("{op:?} on {before:?}: {said:?} instead of {right:?}")) }
}

proptest! {
    #![proptest_config(oracle::cases(1000))]

    /// Decision, what is left, both waits: all as a bucket of tokens has them.
    #[test]
    fn says_what_a_bucket_of_tokens_says(
        quota in quota(),
        steps in prop::collection::vec((pause(), operation()), 1..60),
    ) {
        let mut tokens = Tokens::in_ticks(quota.ticks(), quota.burst, quota.debt);
        let (mut key, mut now) = (Key::default(), 0);
        for (pause, op) in steps {
            now = later(now, pause, &quota);
            tokens.advance(now);
            let before = (tokens, key.0);
            let admits = judged(&mut tokens, quota.burst, op);
            let outcome = key.step(&quota, now, op);
            agree(&outcome, &before.0, &tokens, quota.burst, op, admits).map_err(TestCaseError::fail)?;
            if !admits || matches!(op, Op::Peek(_) | Op::Take(0)) {
                prop_assert_eq!(key.0, before.1, "a refusal or a question was written");
            }
            prop_assert_eq!(outcome.is_never(), matches!(op, Op::Take(n) | Op::Peek(n) if n > quota.burst));
        }
    }

    /// In every interval at most burst + rate · W, by the rate as it was asked for, in whatever order threads
    /// get to see the clock, and whatever else is refunded or debited below zero beside it.
    #[test]
    fn bound_in_every_interval(
        quota in quota(),
        steps in prop::collection::vec((pause(), 0u32..=4, 0u64..=HELD_UP), 1..80),
        in_order in any::<bool>(),
        debits in any::<bool>(),
    ) {
        let (mut key, mut now, mut events) = (Key::default(), HELD_UP, Vec::new());
        for (number, (pause, units, held_up)) in steps.into_iter().enumerate() {
            now = later(now, pause, &quota);
            let seen = if in_order { now } else { now - held_up };
            if debits && number % 7 == 3 {
                key.step(&quota, seen, Op::Debit(units));
            } else if key.step(&quota, seen, Op::Take(units)).admitted {
                events.push((seen, u128::from(units)));
            }
        }
        quota.bound(&events)?;
    }

    /// Not one nanosecond earlier, and exactly then.
    #[test]
    fn retry_after_is_tight(
        quota in quota(),
        steps in prop::collection::vec((pause(), 0u32..=20), 1..40),
    ) {
        let (mut key, mut now) = (Key::default(), 0);
        for (pause, units) in steps {
            now = later(now, pause, &quota);
            let outcome = key.step(&quota, now, Op::Take(units));
            if let Some(wait) = outcome.retry_after {
                prop_assert!(wait.get() > 0);
                let at = |after: u64| quota.bucket().step(key.0, Nanos::new(now + after), Op::Peek(units)).1.admitted;
                prop_assert!(!at(wait.get() - 1));
                prop_assert!(at(wait.get()));
                prop_assert!(at(wait.get() + 1));
            }
            prop_assert_eq!(outcome.admitted, outcome.retry_after.is_none() && units <= quota.burst);
            // From reset_after on the key is as good as new, not a nanosecond earlier.
            let full = now + outcome.reset_after.get();
            prop_assert!(Gcra::is_recovered(key.0, Nanos::new(full)));
            prop_assert!(outcome.reset_after.get() == 0 || !Gcra::is_recovered(key.0, Nanos::new(full - 1)));
        }
    }

    /// More time never turns yes into no.
    #[test]
    fn waiting_never_hurts(
        quota in quota(),
        state in 0u128..1 << 70,
        times in (0u64..1 << 60, 0u64..1 << 60),
        units in 0u32..=20,
    ) {
        let (early, late) = (times.0.min(times.1), times.0.max(times.1));
        let at = |now: u64| quota.bucket().step(state, Nanos::new(now), Op::Peek(units)).1;
        prop_assert!(!at(early).admitted || at(late).admitted);
        prop_assert!(at(late).remaining() >= at(early).remaining());
        prop_assert!(at(late).reset_after <= at(early).reset_after);
    }

    /// An entry that has recovered does exactly what an absent one does.
    #[test]
    fn recovered_equals_absent(quota in quota(), state in 0u128..1 << 70, ahead in 0u64..1 << 50, op in operation()) {
        let now = Nanos::new(u64::try_from(state.div_ceil(1024)).unwrap() + ahead);
        prop_assert!(Gcra::is_recovered(state, now));
        let (of_recovered, said) = quota.bucket().step(state, now, op);
        let (of_absent, said_of_absent) = quota.bucket().step(0, now, op);
        prop_assert_eq!(said, said_of_absent);
        if op == Op::Reset {
            prop_assert_eq!((of_recovered.unwrap_or(0), of_absent), (0, None));
        } else {
            prop_assert_eq!(of_recovered, of_absent);
        }
    }

    /// Within 10 ppm of the rate that was asked for, and never above it.
    #[test]
    fn rate_is_within_ten_ppm(count in 1u32.., seconds in 1u32..=MAX_PERIOD_SECONDS, per_second in 1u32..=MAX_PER_SECOND) {
        let most = (u64::from(seconds) * u64::from(MAX_PER_SECOND)).min(u64::from(u32::MAX)) as u32;
        for (count, seconds) in [(count.min(most), seconds), (per_second, 1), (MAX_PER_SECOND - per_second % 1000, 1)] {
            let period = u64::from(seconds) * SECOND;
            let Some(bucket) = Gcra::new(count, Nanos::new(period), 1, 0) else { continue };
            let all = bucket.interval_ticks() * u128::from(count);
            let period = u128::from(period) * 1024;
            prop_assert!(all >= period, "faster than asked");
            prop_assert!((all - period) * 100_000 <= period, "{count} in {seconds} s is off by more than 10 ppm");
        }
    }

    /// Whatever a refund gives back is taken off its own charge, and what is left of all charges keeps the
    /// bound. The one thing a receipt can't know is how far later charges moved up when *others* were
    /// refunded: it may be credited that much too much, and no more. With refunds that do not overtake each
    /// other (last in, first out, or one at a time) that is nothing.
    #[test]
    fn refunds_by_receipt_keep_the_bound(
        quota in quota(),
        steps in prop::collection::vec((pause(), any::<prop::sample::Index>(), 0u32..=8, 0u32..10), 1..60),
        newest_first in any::<bool>(),
    ) {
        struct Charge { event: usize, units: u32, receipt: Receipt, moved: u128 }
        let (mut key, mut now) = (Key::default(), 0);
        let mut events: Vec<Event> = Vec::new();
        let mut open: Vec<Charge> = Vec::new();
        let mut too_much = 0;
        for (pause, which, units, kind) in steps {
            now = later(now, pause, &quota);
            if kind < 5 || open.is_empty() {
                let outcome = key.step(&quota, now, Op::Take(units));
                if outcome.admitted && units > 0 {
                    events.push((now, u128::from(units) * quota.ticks()));
                    open.push(Charge { event: events.len() - 1, units, receipt: outcome.receipt, moved: 0 });
                }
            } else {
                let index = if newest_first { open.len() - 1 } else { which.index(open.len()) };
                let charge = open.remove(index);
                let level = |key: &Key| key.0.max(u128::from(now) * 1024);
                let before = level(&key);
                key.step(&quota, now, Op::Refund(units.min(charge.units), Some(charge.receipt)));
                let credit = before - level(&key);
                prop_assert!(credit <= u128::from(units.min(charge.units)) * quota.ticks());
                events[charge.event].1 -= credit;
                too_much += credit.min(charge.moved);
                let later = open.iter_mut().filter(|other| other.receipt.mark() > charge.receipt.mark());
                later.for_each(|other| other.moved += credit);
            }
        }
        if newest_first {
            prop_assert_eq!(too_much, 0);
        }
        let burst = quota.ticks() * u128::from(quota.burst) + too_much;
        holds_in_every_interval(&events, burst, 1024, 1).map_err(TestCaseError::fail)?;
    }

    /// Without a receipt as much as there is comes back, never more than a full bucket, and never anything
    /// before now: admitted ≤ burst + rate · W + what was refunded.
    #[test]
    fn refunds_without_receipt_keep_the_gross_bound(
        quota in quota(),
        steps in prop::collection::vec((pause(), 0u32..=8, any::<bool>()), 1..60),
    ) {
        let (mut key, mut now, mut events, mut refunded) = (Key::default(), 0, Vec::new(), 0);
        for (pause, units, refund) in steps {
            now = later(now, pause, &quota);
            if refund {
                let outcome = key.step(&quota, now, Op::Refund(units, None));
                prop_assert!(outcome.remaining() <= quota.burst);
                refunded += u128::from(units);
            } else if key.step(&quota, now, Op::Take(units)).admitted {
                events.push((now, u128::from(units)));
            }
        }
        let burst = u128::from(quota.burst) + refunded;
        holds_in_every_interval(&events, burst, quota.count.into(), quota.period.into()).map_err(TestCaseError::fail)?;
    }

    /// A debit always happens, goes below zero by the debt at most, and the rest is cut; in debt not even
    /// nothing is admitted, and the way out takes as long as what is owed.
    #[test]
    fn debts_are_paid_off(quota in quota(), spent in 0u32..=20, owed in 0u32.., units in 0u32..=20) {
        let (mut key, now) = (Key::default(), 7);
        key.step(&quota, now, Op::Take(spent.min(quota.burst)));
        let outcome = key.step(&quota, now, Op::Debit(owed));
        prop_assert!(outcome.admitted);
        let balance = i64::from(quota.burst) - i64::from(spent.min(quota.burst));
        let balance = (balance - i64::from(owed)).max(-i64::from(quota.debt));
        prop_assert_eq!(i64::from(outcome.remaining()), balance.max(0));
        let units = units.min(quota.burst);
        let missing = u128::try_from((i64::from(units) - balance).max(0)).unwrap() * quota.ticks();
        let asked = key.step(&quota, now, Op::Take(units));
        prop_assert_eq!(asked.admitted, missing == 0, "balance {}, asked for {}", balance, units);
        prop_assert_eq!(asked.retry_after.map_or(0, Nanos::get), u64::try_from(missing.div_ceil(1024)).unwrap());
    }

    /// A clock that steps back, by any amount, locks nobody out for longer than the quota takes to refill: a
    /// first refusal notices it, and the wait that it names is enough. A step that could be a thread held up
    /// is taken for one, and costs that much more.
    #[test]
    fn clock_steps_back(
        quota in quota(),
        now in 1u64 << 40..HALF_TIME,
        back in prop_oneof![0u64..HALF_TIME, 0..2 * HELD_UP],
        units in 1u32..=20,
        debit in 0u32..=40,
    ) {
        let units = units.min(quota.burst);
        let mut key = Key::default();
        key.step(&quota, now, Op::Take(quota.burst));
        key.step(&quota, now, Op::Debit(debit));
        let now = now.saturating_sub(back);
        let first = key.step(&quota, now, Op::Take(units));
        prop_assert!(!first.admitted);
        let wait = first.retry_after.unwrap().get();
        prop_assert!(wait <= quota.longest_wait() + HELD_UP.min(back), "locked out for {wait} ns");
        prop_assert!(!key.step(&quota, now + wait - 1, Op::Take(units)).admitted);
        prop_assert!(key.step(&quota, now + wait, Op::Take(units)).admitted);
    }

    /// Steps forward make entries recover early: one burst, and the bound holds from then on.
    #[test]
    fn clock_steps_forward(quota in quota(), now in 0u64..1 << 50, forward in 1u64..1 << 58) {
        let mut key = Key::default();
        prop_assert!(key.step(&quota, now, Op::Take(quota.burst)).admitted);
        let now = now + forward;
        let mut tokens = Tokens::in_ticks(quota.ticks(), quota.burst, quota.debt);
        tokens.balance = 0;
        tokens.advance(forward);
        prop_assert_eq!(key.step(&quota, now, Op::Peek(0)).remaining(), tokens.remaining());
    }

    /// Another quota for the same key: from the change on the new bound holds by itself, and no earlier charge
    /// keeps the key out for longer than the new quota takes to refill.
    #[test]
    fn quota_changes(
        first in quota(),
        second in quota(),
        before in prop::collection::vec((pause(), 0u32..=20), 0..20),
        after in prop::collection::vec((pause(), 0u32..=4), 1..60),
    ) {
        let (mut key, mut now, mut events) = (Key::default(), 0, Vec::new());
        for (pause, units) in before {
            now = later(now, pause, &first);
            key.step(&first, now, Op::Take(units));
        }
        let changed = now;
        let retry = key.step(&second, now, Op::Take(second.burst)).retry_after;
        if let Some(wait) = retry {
            prop_assert!(wait.get() <= second.longest_wait() + HELD_UP);
            prop_assert!(second.bucket().step(key.0, Nanos::new(now + wait.get()), Op::Peek(second.burst)).1.admitted);
        } else {
            events.push((now, u128::from(second.burst)));
        }
        for (pause, units) in after {
            now = later(now, pause, &second);
            if key.step(&second, now, Op::Take(units)).admitted {
                events.push((now, u128::from(units)));
            }
        }
        prop_assert!(events.iter().all(|&(at, _)| at >= changed));
        second.bound(&events)?;
    }

    #[test]
    fn a_reset_is_a_fresh_start(quota in quota(), state in 0u128..1 << 71, now in 0u64.., units in 1u32..=20) {
        let mut key = Key(state);
        let outcome = key.step(&quota, now, Op::Reset);
        prop_assert_eq!((outcome.remaining(), outcome.reset_after, key.0), (quota.burst, Nanos::ZERO, 0));
        prop_assert!(key.step(&quota, now, Op::Take(units.min(quota.burst))).admitted);
    }

    /// Nothing overflows and every state fits its slot, for any numbers at all.
    #[test]
    fn no_number_is_too_large(
        count in 1u32.., period in 1u64.., burst in 1u32.., debt in 0u32..,
        state in 0u128..1 << 71, now in 0u64.., units in 0u32.., mark in 0u128..,
    ) {
        if let Some(bucket) = Gcra::new(count, Nanos::new(period), burst, debt) {
            for op in operations(units, mark) {
                let (next, outcome) = bucket.step(state, Nanos::new(now), op);
                prop_assert!(next.is_none_or(|next| next < 1 << 71));
                prop_assert!(outcome.remaining() <= burst);
            }
        }
    }
}

fn operations(units: u32, mark: u128) -> [Op; 6] {
    [
        Op::Take(units),
        Op::Peek(units),
        Op::Debit(units),
        Op::Refund(units, None),
        Op::Refund(units, Some(Receipt::new(mark))),
        Op::Reset,
    ]
}

#[test]
fn ends_of_time_and_of_numbers() {
    let ten_years = u64::from(MAX_PERIOD_SECONDS) * SECOND;
    let quotas = [
        (1, ten_years, 1, 0),
        (1, ten_years, 3, 0),
        (MAX_PER_SECOND, SECOND, u32::MAX, u32::MAX),
        (u32::MAX, ten_years, u32::MAX, 0),
        (1, SECOND, 1, 1_000_000_000),
        (1, 1, u32::MAX, 0),
        (u32::MAX, 1, 1, u32::MAX),
    ];
    let times = [0, 1, (1 << 31) - 1, 1 << 31, (1 << 53) - 1, 1 << 60, u64::MAX / 2, u64::MAX - 1, u64::MAX];
    for (count, period, burst, debt) in quotas {
        let bucket = Gcra::new(count, Nanos::new(period), burst, debt).unwrap();
        for now in times {
            for units in [0, 1, burst - 1, burst, burst.saturating_add(1), u32::MAX] {
                for state in [0, 1, u128::from(now) << 10, (1 << 70) - 1, 1 << 70, (1 << 71) - 1] {
                    for op in operations(units, state) {
                        let (next, outcome) = bucket.step(state, Nanos::new(now), op);
                        assert!(next.is_none_or(|next| next < 1 << 71));
                        assert!(outcome.remaining() <= burst);
                    }
                }
            }
            // A fresh key gives its burst, once, at any time there is.
            let (next, outcome) = bucket.step(0, Nanos::new(now), Op::Take(burst));
            assert!(outcome.admitted && outcome.remaining() == 0);
            assert!(!bucket.step(next.unwrap(), Nanos::new(now), Op::Take(1)).1.admitted);
        }
    }
}

#[test]
fn numbers_that_make_no_bucket() {
    let year = 365 * 86_400 * SECOND;
    for (count, period, burst, debt) in [
        (0, SECOND, 1, 0),
        (1, 0, 1, 0),
        (1, SECOND, 0, 0),
        (1, year, 37, 0),
        (1, year, 1, 36),
        (1, SECOND, u32::MAX, 0),
        (1, u64::MAX, 1, 0),
        (1, u64::MAX, u32::MAX, u32::MAX),
    ] {
        assert_eq!(Gcra::new(count, Nanos::new(period), burst, debt), None);
    }
    assert!(Gcra::new(1, Nanos::new(year), 36, 0).is_some());
}

/// Who takes all there is gets what was asked for: the bound is reached, not merely kept.
#[test]
fn greedy_clients_get_their_rate() {
    for (count, seconds) in [(1, 1), (3, 1), (7, 60), (100, 1), (1, 86_400), (9_999_999, 1), (3_000_000, 1)] {
        let quota = Quota { count, period: seconds * SECOND, burst: 5, debt: 0 };
        let (mut key, mut now, mut admitted) = (Key::default(), 0, 0u64);
        while admitted < 10_000 {
            match key.step(&quota, now, Op::Take(1)).retry_after {
                Some(wait) => now += wait.get(),
                None => admitted += 1,
            }
        }
        let right = u128::from(admitted - 5) * u128::from(quota.period);
        let got = u128::from(now) * u128::from(count);
        assert!(got >= right, "{count}/{seconds}s: faster than the limit");
        // 10 ppm, and half a nanosecond on the average for the clock's grain at each wait.
        let grain = u128::from(admitted) * u128::from(count);
        assert!(got <= right + right / 100_000 + grain, "{count}/{seconds}s: slower than promised");
    }
}

/// Every operation in every state that small numbers can reach, at every moment.
#[test]
fn exhaustive_for_small_numbers() {
    const LAST: u64 = 9;
    let mut judged_steps = 0u32;
    for (count, period) in [(1, 1), (1, 2), (2, 1), (2, 3), (3, 2), (3, 4)] {
        for (burst, debt) in [(1, 0), (2, 0), (1, 1), (2, 1), (3, 2)] {
            let quota = Quota { count, period, burst, debt };
            let start = (0u128, Tokens::in_ticks(quota.ticks(), burst, debt));
            let (mut seen, mut todo) = (BTreeSet::from([start]), vec![start]);
            while let Some((state, tokens)) = todo.pop() {
                for now in tokens.at..=LAST.min(tokens.at + 3) {
                    let mut before = tokens;
                    before.advance(now);
                    for units in 0..=burst + 1 {
                        for op in [
                            Op::Take(units),
                            Op::Peek(units),
                            Op::Debit(units),
                            Op::Refund(units, None),
                            Op::Reset,
                        ] {
                            let mut after = before;
                            let admits = judged(&mut after, burst, op);
                            let (next, outcome) = quota.bucket().step(state, Nanos::new(now), op);
                            agree(&outcome, &before, &after, burst, op, admits)
                                .unwrap_or_else(|e| panic!("{quota:?}: {e}"));
                            judged_steps += 1;
                            let reached = (next.unwrap_or(state), after);
                            if seen.insert(reached) {
                                todo.push(reached);
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(judged_steps > 100_000, "{judged_steps}");
}

/// The counter-example that makes the exact wording of receipts necessary; see the bound's text.
#[test]
fn a_stale_receipt_gives_back_no_more_than_the_refund_that_made_it_stale() {
    let quota = Quota { count: 1, period: SECOND, burst: 10, debt: 0 };
    let mut key = Key::default();
    let first = key.step(&quota, 0, Op::Take(5)).receipt;
    let second = key.step(&quota, 0, Op::Take(5)).receipt;
    key.step(&quota, 0, Op::Refund(5, Some(first)));
    // By now time has given back the second charge as well.
    let now = 5 * SECOND;
    assert_eq!(key.step(&quota, now, Op::Peek(1)).remaining(), 10);
    assert_eq!(key.step(&quota, now, Op::Take(5)).remaining(), 5);
    let outcome = key.step(&quota, now, Op::Refund(5, Some(second)));
    assert_eq!(outcome.remaining(), 10, "at most the five that were refunded before");
}

proptest! {
    /// algorithms: a key's share used is kept, never less, and by no more than two nanoseconds and two ticks.
    #[test]
    fn rescaling_keeps_the_share_used(from in quota(), to in quota(), start in 0..HALF_TIME, taken in any::<u32>()) {
        let (old, new) = (from.bucket(), to.bucket());
        let now = Nanos::new(start);
        let units = taken % from.burst + 1;
        let (state, _) = old.step(0, now, Op::Take(units));
        let state = state.unwrap();
        let ahead = |state: u128| state.saturating_sub(u128::from(start) << 10);
        let (after, outcome) = new.step(state, now, Op::Rescale(old.refill()));
        let after = after.unwrap_or(state);
        prop_assert!(outcome.admitted);
        // used' / τ' ≥ used / τ, compared crosswise in nanoseconds, rounded towards the claim.
        let (used, used_after) = (ahead(state), ahead(after));
        let (t_old, t_new) = (u128::from(old.refill().get()), u128::from(new.refill().get()));
        let exact = (used.div_ceil(1024) * t_new).div_ceil(t_old) << 10;
        let most = new.interval_ticks() * u128::from(new.burst()) + new.interval_ticks() * u128::from(to.debt);
        prop_assert_eq!(used_after, exact.min(most));
        // The new quota's bound from now on: no more at once than is left of it.
        let left = new.step(after, now, Op::Peek(1)).1.remaining();
        prop_assert!(u128::from(left) * new.interval_ticks() + used_after <= new.interval_ticks() * u128::from(new.burst()) || left == 0);
    }
}

#[test]
fn half_used_of_a_hundred_is_half_used_of_a_thousand() {
    let (old, new) = (
        Gcra::new(100, Nanos::from_secs(3600), 100, 0).unwrap(),
        Gcra::new(1000, Nanos::from_secs(86_400), 1000, 0).unwrap(),
    );
    let now = Nanos::from_secs(5);
    let (state, _) = old.step(0, now, Op::Take(50));
    let (state, outcome) = new.step(state.unwrap(), now, Op::Rescale(old.refill()));
    assert_eq!((outcome.remaining(), outcome.reset_after), (500, Nanos::from_secs(43_200)));
    // There and back, and nothing to a key that has recovered.
    let (state, outcome) = old.step(state.unwrap(), now, Op::Rescale(new.refill()));
    assert_eq!(outcome.remaining(), 50);
    assert_eq!(new.step(state.unwrap(), Nanos::from_secs(9_999), Op::Rescale(old.refill())).0, None);
    assert_eq!(new.step(0, now, Op::Rescale(old.refill())).0, None);
}

/// What the solver found: from a bucket that fills in a nanosecond, the product was larger than the shift left room
/// for, and a bucket that is all used came out full.
#[test]
fn a_rescale_from_almost_nothing_is_cut_and_never_wraps() {
    let old = Gcra::new(1, Nanos::new(1), 1, 0).unwrap();
    let new = Gcra::new(1, Nanos::new(1 << 59), 1, 0).unwrap();
    let (now, used) = (1 << 10, 1_u128 << 69);
    let (after, outcome) = new.step(now + used, Nanos::new(1), Op::Rescale(old.refill()));
    assert_eq!((after, outcome.remaining()), (None, 0), "all of it stays used");
}
