//! Clocks that step, are wrong by a day, or stand at the ends of what they can say, through the public face: what
//! it costs is one burst at most, and nobody is locked out for longer than the quota takes to refill.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "tests"
)]

use std::time::Duration;

use ratelimit_core::time::Clock as _;
use ratelimit_core::{Algorithm, Limit, Limiter, ManualClock, MemoryStore, Nanos};

const HOUR: Nanos = Nanos::from_secs(3600);
const DAY: Nanos = Nanos::from_secs(86_400);
/// What a thread may be held up between reading its clock and deciding, which a step back that is not longer is
/// taken for.
const HELD_UP: Nanos = Nanos::from_secs(60);

fn limiter(now: Nanos) -> (Limiter<MemoryStore<ManualClock>>, ManualClock) {
    let clock = ManualClock::default();
    clock.set_now(now);
    (Limiter::new(MemoryStore::with_clock(clock.clone())), clock)
}

/// One that counts by the monotonic clock, of each algorithm that does.
fn limits() -> [Limit; 2] {
    [Algorithm::TokenBucket, Algorithm::SlidingWindow]
        .map(|algorithm| Limit::new(algorithm.to_string(), "10/min".parse().unwrap()).algorithm(algorithm))
}

/// How many of so many requests are admitted.
fn admitted(limiter: &Limiter<MemoryStore<ManualClock>>, limit: &Limit, requests: usize) -> usize {
    (0..requests).filter(|_| limiter.try_check(limit, "ann").is_allowed()).count()
}

/// Row 107, "the clock steps back 1 h": all of the quota is back within the time in which it refills, not in an
/// hour, and the step gives nothing away.
#[test]
fn a_step_back_locks_nobody_out() {
    for limit in limits() {
        let (limiter, clock) = limiter(DAY);
        assert_eq!(admitted(&limiter, &limit, 20), 10);
        clock.set_now(DAY.saturating_sub(HOUR));
        assert_eq!(admitted(&limiter, &limit, 20), 0, "{limit:?}");
        // A cell of a sliding window is a tenth of it.
        clock.advance(Duration::from_secs(66) + Duration::from(HELD_UP));
        assert_eq!(admitted(&limiter, &limit, 20), 10, "{limit:?}");
    }
}

/// Row 108, "the clock steps forward 1 h": one fresh burst, and the bound from then on.
#[test]
fn a_step_forward_is_one_fresh_burst() {
    for limit in limits() {
        let (limiter, clock) = limiter(DAY);
        assert_eq!(admitted(&limiter, &limit, 20), 10);
        clock.set_now(DAY.saturating_add(HOUR));
        assert_eq!(admitted(&limiter, &limit, 20), 10, "{limit:?}");
        assert_eq!(admitted(&limiter, &limit, 20), 0, "{limit:?}");
    }
}

/// Row 110, "node wall clock wrong by a day": no effect where no calendar is asked. A window of the calendar is the
/// one that the clock says it is, and no more than the limit in each.
#[test]
fn a_wrong_wall_clock_moves_calendar_windows_alone() {
    let (limiter, clock) = limiter(DAY);
    let right = clock.utc();
    let permits = Limit::concurrency("at-once", 3);
    let daily = Limit::new("daily", "10/day".parse().unwrap()).algorithm(Algorithm::FixedWindow);
    assert_eq!(admitted(&limiter, &permits, 5), 3);
    for limit in limits() {
        assert_eq!(admitted(&limiter, &limit, 20), 10);
    }
    assert_eq!(admitted(&limiter, &daily, 20), 10);
    for wrong in [right.saturating_add(DAY), right.saturating_sub(DAY), right] {
        clock.set_utc(wrong);
        for limit in limits() {
            assert_eq!(admitted(&limiter, &limit, 20), 0, "{limit:?} at {wrong:?}");
        }
        assert_eq!(admitted(&limiter, &permits, 1), 0);
        assert!(admitted(&limiter, &daily, 20) <= 10);
    }
    clock.advance(Duration::from_secs(66));
    for limit in limits() {
        assert_eq!(admitted(&limiter, &limit, 20), 10, "{limit:?}");
    }
}

/// Row 112, "now = 0, 2³¹, 2⁵³ − 1, u64::MAX/2", and the year 2038 on the wall clock: each a moment like any other.
#[test]
fn the_ends_of_clocks_are_moments_like_any_other() {
    let seconds_2038 = 1 << 31;
    for now in [0, 1, 1 << 31, (1 << 53) - 1, 1 << 53, 1 << 61, u64::MAX / 2] {
        for utc in [0, seconds_2038 - 1, seconds_2038, (1 << 32) - 1, 1 << 33] {
            let (limiter, clock) = limiter(Nanos::new(now));
            clock.set_utc(Nanos::from_secs(utc));
            let window = Limit::new("window", "10/min".parse().unwrap()).algorithm(Algorithm::FixedWindow);
            for limit in limits().into_iter().chain([window]) {
                assert_eq!(admitted(&limiter, &limit, 20), 10, "{limit:?} at {now}, {utc}");
                let denied = limiter.try_check(&limit, "ann");
                let wait = denied.retry_after().unwrap();
                assert!(wait <= Nanos::from_secs(66), "{limit:?} at {now}, {utc}: {wait:?}");
            }
            // The clock starts with the process; its hand has room for what no process lives to see.
            if now < 1 << 59 {
                clock.advance(Duration::from_secs(66));
                for limit in limits() {
                    assert_eq!(admitted(&limiter, &limit, 20), 10, "{limit:?} at {now}, {utc}");
                }
            }
        }
    }
    // Time that is over stands still, and nothing overflows.
    let (limiter, clock) = limiter(Nanos::MAX);
    clock.set_utc(Nanos::MAX);
    for limit in limits() {
        assert!(admitted(&limiter, &limit, 20) <= 10);
        clock.advance(Duration::from_secs(1));
        let _ = admitted(&limiter, &limit, 20);
    }
}
