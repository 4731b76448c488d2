//! The sliding window against a log of every charge.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "tests"
)]

mod oracle;

use oracle::{HELD_UP, SECOND};
use proptest::prelude::*;
use ratelimit_core::Nanos;
use ratelimit_core::algorithm::{CELLS, Op, Outcome, Receipt, Ring, SlidingWindow};

/// Every charge with its time; what a window really holds is counted anew each time.
#[derive(Default)]
struct Log(Vec<(u64, u64)>);

impl Log {
    /// Units charged in the `length` nanoseconds that end with `now`.
    fn within(&self, length: u64, now: u64) -> u64 {
        let counts =
            |&&(at, _): &&(u64, u64)| at <= now && u128::from(at) + u128::from(length) > u128::from(now);
        self.0.iter().filter(counts).map(|&(_, units)| units).sum()
    }

    /// Whether no interval of that length, wherever it ends, holds more than `limit`.
    fn holds(&self, length: u64, limit: u64) -> Result<(), String> {
        for &(at, _) in &self.0 {
            let units = self.within(length, at);
            if units > limit {
                return Err(format!("{units} in the {length} ns up to {at}, at most {limit}: {:?}", self.0));
            }
        }
        Ok(())
    }
}

struct Key {
    window: SlidingWindow,
    ring: Ring,
}

impl Key {
    fn new(limit: u32, window: u64, debt: u32) -> Self {
        Self { window: self::window(limit, window, debt), ring: Ring::default() }
    }

    fn step(&mut self, now: u64, op: Op) -> Outcome {
        let (next, outcome) = self.window.step(self.ring, Nanos::new(now), op);
        if let Some(next) = next {
            self.ring = next;
        }
        outcome
    }

    fn asked(&self, now: u64, units: u32) -> bool {
        self.window.step(self.ring, Nanos::new(now), Op::Peek(units)).1.admitted
    }
}

fn window(limit: u32, window: u64, debt: u32) -> SlidingWindow {
    SlidingWindow::new(limit, Nanos::new(window), debt).unwrap()
}

/// A tenth of a window, rounded up.
fn cell(window: u64) -> u64 {
    window.div_ceil(10)
}

/// Lengths: some so short that every nanosecond of them is tried, and real ones.
fn length() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 1u64..=45, 1 => Just(SECOND), 1 => Just(60 * SECOND), 1 => Just(3_153_600_000 * SECOND)]
}

/// When the next thing happens, in a window of that length: at once, within a cell, within a window, just
/// before and after everything has gone.
fn pause() -> impl Strategy<Value = (u32, u32, i64)> {
    (prop_oneof![3 => Just(0u32), 2 => Just(1), 2 => Just(10), 1 => Just(11)], 0u32..=1000, -1i64..=1)
}

fn later(now: u64, (cells, share, nudge): (u32, u32, i64), length: u64) -> u64 {
    let cell = cell(length);
    let span = if cells == 0 {
        u128::from(cell) * u128::from(share) / 4000
    } else {
        u128::from(cell) * u128::from(cells)
    };
    now.saturating_add(u64::try_from(span).unwrap()).saturating_add_signed(nudge).max(now).min(u64::MAX / 4)
}

/// Bunches at the edges of windows and cells on purpose.
fn trace() -> impl Strategy<Value = Vec<((u32, u32, i64), u32)>> {
    prop::collection::vec((pause(), prop_oneof![3 => Just(1u32), 2 => 0u32..=6, 1 => 0u32..=25]), 1..80)
}

proptest! {
    #![proptest_config(oracle::cases(1000))]

    /// Never more than the limit in any interval as long as the window; refused only for what was charged at
    /// most a cell beyond the window ago; the wait named is the shortest.
    #[test]
    fn never_early_and_at_most_a_cell_late(limit in 1u32..=20, length in length(), start in 0u64..100, trace in trace()) {
        let (mut key, mut log, mut now) = (Key::new(limit, length, 0), Log::default(), start);
        for (pause, units) in trace {
            now = later(now, pause, length);
            let before = key.ring;
            let outcome = key.step(now, Op::Take(units));
            let used = log.within(length, now);
            let used_or_late = log.within(11 * cell(length), now);
            prop_assert_eq!(outcome.is_never(), units > limit);
            if outcome.admitted {
                prop_assert!(used + u64::from(units) <= u64::from(limit), "too early");
                log.0.push((now, units.into()));
            } else {
                prop_assert!(used_or_late + u64::from(units) > u64::from(limit), "too late");
                prop_assert_eq!(key.ring, before);
            }
            let charged = if outcome.admitted { u64::from(units) } else { 0 };
            let left = u64::from(outcome.remaining());
            prop_assert!(left <= u64::from(limit) - used - charged);
            prop_assert!(left + used_or_late + charged >= u64::from(limit));
            if let Some(wait) = outcome.retry_after {
                prop_assert!(wait.get() > 0 && wait.get() <= 11 * cell(length));
                prop_assert!(!key.asked(now + wait.get() - 1, units));
                prop_assert!(key.asked(now + wait.get(), units));
            }
            // Fully recovered at reset_after, not a nanosecond earlier.
            let full = now + outcome.reset_after.get();
            prop_assert!(key.asked(full, limit));
            prop_assert!(outcome.reset_after.get() == 0 || !key.asked(full - 1, limit));
            prop_assert_eq!(outcome.reset_after.get() == 0, left == u64::from(limit));
        }
        log.holds(length, limit.into()).map_err(TestCaseError::fail)?;
    }

    /// Threads that are held up see the clock late; what they charge counts at most later.
    #[test]
    fn bound_when_the_clock_is_seen_out_of_order(
        limit in 1u32..=20,
        seconds in 1u64..=30,
        trace in prop::collection::vec((pause(), 0u32..=4, 0..=HELD_UP), 1..60),
    ) {
        let length = seconds * SECOND;
        let (mut key, mut log, mut now) = (Key::new(limit, length, 0), Log::default(), HELD_UP);
        for (pause, units, held_up) in trace {
            now = later(now, pause, length);
            // The charge is made at `now`, by somebody who believes it is earlier.
            if key.step(now - held_up, Op::Take(units)).admitted {
                log.0.push((now, units.into()));
            }
        }
        // Between reading the clock and charging lies up to a second; so it does at an interval's other end.
        log.holds(length - HELD_UP.min(length - 1), limit.into()).map_err(TestCaseError::fail)?;
    }

    /// A refund by receipt takes its own charge out of the log, while it still counts, and nothing else.
    #[test]
    fn refunds_by_receipt(
        limit in 1u32..=20,
        length in length(),
        trace in prop::collection::vec((pause(), 0u32..=6, any::<prop::sample::Index>(), 0u32..10), 1..80),
    ) {
        let (mut key, mut log, mut now) = (Key::new(limit, length, 0), Log::default(), 0);
        let mut open: Vec<(usize, u64, Receipt)> = Vec::new();
        for (pause, units, which, kind) in trace {
            now = later(now, pause, length);
            if kind < 6 || open.is_empty() {
                let outcome = key.step(now, Op::Take(units));
                if outcome.admitted && units > 0 {
                    log.0.push((now, units.into()));
                    open.push((log.0.len() - 1, units.into(), outcome.receipt));
                }
            } else {
                let (event, charged, receipt) = open.remove(which.index(open.len()));
                let units = u64::from(units).min(charged);
                let left = |key: &mut Key| u64::from(key.step(now, Op::Peek(0)).remaining());
                let before = left(&mut key);
                let said = key.step(now, Op::Refund(units as u32, Some(receipt)));
                let back = left(&mut key) - before;
                prop_assert_eq!(u64::from(said.remaining()), before + back);
                // The cell is still in the ring, and all comes back; or it has left it, and nothing does.
                let gone = now / cell(length) - log.0[event].0 / cell(length) >= CELLS as u64;
                prop_assert_eq!(back, if gone { 0 } else { units });
                log.0[event].1 -= units;
            }
        }
        log.holds(length, limit.into()).map_err(TestCaseError::fail)?;
    }

    /// Without a receipt as much comes back as there is: the sum goes down by as much, never below zero.
    #[test]
    fn refunds_without_receipt(limit in 1u32..=20, length in length(), trace in trace(), refunds in any::<u128>()) {
        let (mut key, mut now, mut log, mut given) = (Key::new(limit, length, 0), 0, Log::default(), 0);
        for (number, (pause, units)) in trace.into_iter().enumerate() {
            now = later(now, pause, length);
            let before = key.step(now, Op::Peek(0)).remaining();
            if refunds >> number & 1 == 1 {
                let after = key.step(now, Op::Refund(units, None)).remaining();
                prop_assert_eq!(after, (before + units).min(limit));
                given += u64::from(units);
            } else if key.step(now, Op::Take(units)).admitted {
                log.0.push((now, units.into()));
            }
        }
        log.holds(length, u64::from(limit) + given).map_err(TestCaseError::fail)?;
    }

    /// A debit always happens, beyond the limit by the debt at most, and blocks until enough of it has left.
    #[test]
    fn debts_are_waited_for(
        limit in 1u32..=20, debt in 0u32..=20, length in length(), start in 0u64..1 << 40,
        spent in 0u32..=20, owed in 0u32..,
    ) {
        let mut key = Key::new(limit, length, debt);
        let spent = spent.min(limit);
        key.step(start, Op::Take(spent));
        let outcome = key.step(start, Op::Debit(owed));
        let used = (u64::from(spent) + u64::from(owed)).min(u64::from(limit) + u64::from(debt));
        prop_assert!(outcome.admitted);
        prop_assert_eq!(u64::from(outcome.remaining()), u64::from(limit).saturating_sub(used));
        // In debt not even nothing is admitted.
        prop_assert_eq!(key.asked(start, 0), used <= u64::from(limit));
        let gone = (start / cell(length) + 11) * cell(length);
        prop_assert_eq!(key.asked(gone - 1, limit), used == 0);
        prop_assert!(key.asked(gone, limit));
    }

    /// Another limit, the same window: the log goes on, the new limit holds for it.
    #[test]
    fn the_limit_changes(limits in (1u32..=20, 1u32..=20), length in length(), before in trace(), after in trace()) {
        let (mut key, mut log, mut now) = (Key::new(limits.0, length, 0), Log::default(), 0);
        for (pause, units) in before {
            now = later(now, pause, length);
            if key.step(now, Op::Take(units)).admitted {
                log.0.push((now, units.into()));
            }
        }
        key.window = window(limits.1, length, 0);
        for (pause, units) in after {
            now = later(now, pause, length);
            let admitted = key.step(now, Op::Take(units)).admitted;
            if admitted {
                log.0.push((now, units.into()));
                prop_assert!(units == 0 || log.within(length, now) <= u64::from(limits.1));
            } else {
                prop_assert!(log.within(11 * cell(length), now) + u64::from(units) > u64::from(limits.1));
            }
        }
    }

    /// Another window: what counted goes on counting, for the new window's length from the change at most.
    #[test]
    fn the_window_changes(
        limit in 1u32..=20,
        lengths in (length(), length()),
        start in 0u64..1000,
        before in trace(),
        after in trace(),
        asked_first in any::<bool>(),
    ) {
        let (mut key, mut log, mut now) = (Key::new(limit, lengths.0, 0), Log::default(), start);
        for (pause, units) in before {
            now = later(now, pause, lengths.0);
            if key.step(now, Op::Take(units)).admitted {
                log.0.push((now, units.into()));
            }
        }
        let counted = limit - key.step(now, Op::Peek(0)).remaining();
        key.window = window(limit, lengths.1, 0);
        prop_assert_eq!(limit - key.step(now, Op::Peek(0)).remaining(), counted);
        let retry = key.step(now, if asked_first { Op::Peek(limit) } else { Op::Take(limit) }).retry_after;
        prop_assert_eq!(retry.is_some(), counted > 0);
        if let Some(wait) = retry {
            prop_assert!(wait.get() <= 11 * cell(lengths.1), "locked out for {wait:?}");
            prop_assert!(!key.asked(now + wait.get() - 1, limit));
            prop_assert!(key.asked(now + wait.get(), limit));
        } else if !asked_first {
            log.0.push((now, limit.into()));
        }
        let shorter = lengths.0.min(lengths.1);
        for (pause, units) in after {
            now = later(now, pause, lengths.1);
            if key.step(now, Op::Take(units)).admitted {
                log.0.push((now, units.into()));
            }
        }
        // What had left the old window is forgotten, so the whole log is held to the shorter of the two …
        log.holds(shorter, limit.into()).map_err(TestCaseError::fail)?;
        // … and what came after the change to the new one.
        let new = Log(log.0.split_off(log.0.iter().take_while(|&&(at, _)| at < now).count()));
        new.holds(lengths.1, limit.into()).map_err(TestCaseError::fail)?;
    }

    /// A receipt from before the window changed gives nothing back: its charge lies elsewhere now.
    #[test]
    fn receipts_of_another_window_are_worth_nothing(
        lengths in (1u64..=60, 1u64..=60), start in 0u64..10_000, offset in 0u64..6,
    ) {
        prop_assume!(cell(lengths.0) != cell(lengths.1));
        // The moment at which the new window has a cell of the same number.
        let pause = (start / cell(lengths.0) * cell(lengths.1) + offset).saturating_sub(start);
        let mut key = Key::new(9, lengths.0, 0);
        let receipt = key.step(start, Op::Take(4)).receipt;
        key.window = window(9, lengths.1, 0);
        key.step(start + pause, Op::Take(5));
        let before = key.step(start + pause, Op::Peek(0)).remaining();
        prop_assert_eq!(key.step(start + pause, Op::Refund(4, Some(receipt))).remaining(), before);
    }

    /// However far the clock steps back: the first refusal notices, and the wait it names is enough.
    #[test]
    fn clock_steps_back(
        limit in 1u32..=20, debt in 0u32..=20, seconds in 1u64..=100, start in 0u64..1 << 60,
        spread in 0u64..=1200, back in prop_oneof![0u64..1 << 60, 0..3 * HELD_UP, 0..300 * SECOND], units in 1u32..=20,
    ) {
        let length = seconds * SECOND;
        let mut key = Key::new(limit, length, debt);
        key.step(start, Op::Take(limit.div_ceil(2)));
        let now = start + length * spread / 1000;
        key.step(now, Op::Take(limit / 2));
        key.step(now, Op::Debit(debt));
        let now = now.saturating_sub(back);
        let Some(wait) = key.step(now, Op::Take(units.min(limit))).retry_after else { return Ok(()) };
        let wait = wait.get();
        prop_assert!(wait <= length + cell(length) + 10 + HELD_UP.min(back), "locked out for {wait}");
        prop_assert!(!key.asked(now + wait - 1, units.min(limit)));
        prop_assert!(key.asked(now + wait, units.min(limit)));
    }

    /// A ring that has run empty does exactly what an absent one does.
    #[test]
    fn recovered_equals_absent(
        limit in 1u32..=20, lengths in (length(), length()), trace in trace(), ahead in 0u64..1000, units in 0u32..=25,
        other in any::<bool>(),
    ) {
        let (mut key, mut now) = (Key::new(limit, lengths.0, 0), 0);
        for (pause, units) in trace {
            now = later(now, pause, lengths.0);
            key.step(now, Op::Take(units));
        }
        let now = Nanos::new(key.ring.expires().get().max(now) + ahead);
        let window = if other { window(limit, lengths.1, 0) } else { key.window };
        for op in [Op::Take(units), Op::Peek(units), Op::Debit(units), Op::Refund(units, None), Op::Reset] {
            prop_assert_eq!(window.step(key.ring, now, op), window.step(Ring::default(), now, op), "{:?}", op);
        }
    }

    #[test]
    fn a_reset_is_a_fresh_start(limit in 1u32..=20, length in length(), trace in trace()) {
        let (mut key, mut now) = (Key::new(limit, length, 0), 0);
        for (pause, units) in trace {
            now = later(now, pause, length);
            key.step(now, Op::Take(units));
        }
        let outcome = key.step(now, Op::Reset);
        prop_assert_eq!((outcome.remaining(), outcome.reset_after), (limit, Nanos::ZERO));
        prop_assert!(key.step(now, Op::Take(limit)).admitted);
    }

    /// Nothing overflows, for any numbers at all, and a state from anywhere is survived.
    #[test]
    fn no_number_is_too_large(
        limit in 1u32.., length in 1u64.., debt in 0u32..,
        cells in prop::array::uniform11(0u32..), index in 0u64.., cell in 0u64..,
        now in 0u64.., units in 0u32.., mark in 0u128..,
    ) {
        let window = window(limit, length, debt);
        for ring in [Ring { cells, index, cell }, Ring { cells, index: now / self::cell(length), cell: self::cell(length) }] {
            for op in [
                Op::Take(units),
                Op::Peek(units),
                Op::Debit(units),
                Op::Refund(units, None),
                Op::Refund(units, Some(Receipt::new(mark))),
                Op::Reset,
            ] {
                let (next, outcome) = window.step(ring, Nanos::new(now), op);
                prop_assert!(outcome.remaining() <= limit);
                let _ = next.map(|next| next.expires());
            }
        }
    }
}

#[test]
fn the_largest_limit_is_kept_exactly() {
    let mut key = Key::new(u32::MAX, 10, u32::MAX);
    assert!(key.step(0, Op::Take(u32::MAX - 1)).admitted);
    assert!(!key.step(1, Op::Take(2)).admitted);
    assert!(key.step(1, Op::Take(1)).admitted);
    assert!(!key.step(10, Op::Take(1)).admitted);
    // A debt that no counter of 32 bits holds in one cell is cut, and never wraps.
    key.step(1, Op::Debit(u32::MAX));
    key.step(1, Op::Debit(u32::MAX));
    assert!(!key.asked(11, 1));
    assert!(key.asked(12, u32::MAX));
}

#[test]
fn no_second_burst_at_a_boundary() {
    let mut key = Key::new(100, 60 * SECOND, 0);
    for _ in 0..100 {
        assert!(key.step(60 * SECOND - 1, Op::Take(1)).admitted);
    }
    for late in 0..60 {
        assert!(!key.asked(60 * SECOND + late * SECOND, 1), "{late} s later");
    }
    assert!(key.asked(120 * SECOND, 100));
}

#[test]
fn numbers_that_make_no_window() {
    assert_eq!(SlidingWindow::new(0, Nanos::new(1), 0), None);
    assert_eq!(SlidingWindow::new(1, Nanos::ZERO, 0), None);
    assert!(SlidingWindow::new(u32::MAX, Nanos::MAX, u32::MAX).is_some());
}

#[test]
fn the_end_of_time() {
    let shortest = SlidingWindow::new(2, Nanos::new(10), 0).unwrap();
    let mut ring = Ring::default();
    for now in [u64::MAX - 1, u64::MAX] {
        let (next, outcome) = shortest.step(ring, Nanos::new(now), Op::Take(1));
        assert!(outcome.admitted);
        ring = next.unwrap();
    }
    let (_, outcome) = shortest.step(ring, Nanos::MAX, Op::Take(1));
    assert!(
        !outcome.admitted && outcome.retry_after.is_some(),
        "time stands still there, and the limit holds"
    );
}
