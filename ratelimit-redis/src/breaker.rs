//! Whether the store is asked at all. Pure: events in, state out.
//!
//! Closed: it is asked. After [`FAILURES`] calls in a row that failed, or when a connection is refused, it
//! opens: nobody waits for the store any more, and a probe in the background tries it after a pause that
//! doubles with every failure, each drawn between half and the whole of it, so that replicas don't come back
//! in step. The pause shrinks again only once the store has been well for a while: one that flaps is left
//! alone for longer.

use ratelimit_core::Nanos;

/// Calls in a row that must fail.
const FAILURES: u32 = 5;
/// First and longest pause between probes.
const FIRST_PAUSE: u64 = 100_000_000;
/// Shorter than local decisions go on after the store is back ([`crate::fallback::OVERLAP`]), by the time that
/// connecting takes: all replicas are to find back within it.
const LONGEST_PAUSE: u64 = 1_500_000_000;
/// How long the store must have been well before the pause begins anew.
const WELL: Nanos = Nanos::from_secs(10);

/// Its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Closed,
    Open,
}

#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    failures: u32,
    /// Doublings of the pause.
    doublings: u32,
    closed_at: Nanos,
}

impl Breaker {
    /// Open until the first probe has succeeded.
    pub(crate) const fn new() -> Self {
        Self { state: State::Open, failures: 0, doublings: 0, closed_at: Nanos::ZERO }
    }

    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// A call was answered.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// A call failed; true if that opened it.
    pub(crate) fn failed(&mut self, now: Nanos) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.failures >= FAILURES && self.open(now)
    }

    /// The store is known to be gone; true if that opened it.
    pub(crate) fn open(&mut self, now: Nanos) -> bool {
        if self.is_open() {
            return false;
        }
        if now.saturating_sub(self.closed_at) >= WELL {
            self.doublings = 0;
        }
        self.state = State::Open;
        true
    }

    /// How long to wait before the next probe; `random` is any number.
    pub(crate) fn pause(&mut self, random: u64) -> Nanos {
        let whole = FIRST_PAUSE.saturating_mul(1 << self.doublings.min(10)).min(LONGEST_PAUSE);
        self.doublings = self.doublings.saturating_add(1);
        Nanos::new(whole / 2 + random % (whole / 2 + 1))
    }

    /// A probe was answered; true if that closed it.
    pub(crate) fn close(&mut self, now: Nanos) -> bool {
        self.failures = 0;
        if !self.is_open() {
            return false;
        }
        self.state = State::Closed;
        self.closed_at = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = Nanos::from_secs(1);

    fn closed() -> Breaker {
        let mut breaker = Breaker::new();
        assert!(breaker.is_open() && breaker.close(Nanos::ZERO) && !breaker.close(Nanos::ZERO));
        breaker
    }

    #[test]
    fn five_failures_in_a_row_open_it() {
        let mut breaker = closed();
        for _ in 0..3 {
            (0..4).for_each(|_| assert!(!breaker.failed(SECOND)));
            breaker.succeeded();
        }
        (0..4).for_each(|_| assert!(!breaker.failed(SECOND)));
        assert!(breaker.failed(SECOND) && breaker.is_open());
        assert!(!breaker.failed(SECOND), "it opens once");
    }

    /// Rows 84 and 87: pauses grow, are spread, and shrink only after the store was well for a while.
    #[test]
    fn pauses_grow_and_a_flapping_store_is_left_alone() {
        let mut breaker = closed();
        assert!(breaker.open(SECOND));
        let longest: Vec<u64> = (0..7).map(|_| breaker.pause(u64::MAX - 1).get() / 1_000_000).collect();
        assert!(longest.iter().all(|&pause| (50..=1500).contains(&pause)), "{longest:?}");
        assert!(breaker.pause(0).get() == 750_000_000, "half of the longest at least");
        // It comes back for a second and goes again: the pause stays long.
        assert!(breaker.close(SECOND) && breaker.open(Nanos::from_secs(2)));
        assert!(breaker.pause(0).get() == 750_000_000);
        assert!(breaker.close(SECOND) && breaker.open(Nanos::from_secs(12)));
        assert!(breaker.pause(0).get() == 50_000_000);
    }
}
