//! Testing a limit of a day in no time: the clock is driven by hand.
//!
//! `cargo run -p ratelimit-core --example manual_time`

use std::time::Duration;

use ratelimit_core::{Algorithm, Limit, Limiter, ManualClock, MemoryStore, Nanos};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Noon, 24 November 2026, UTC.
    let clock = ManualClock::at(Nanos::from_secs(1_795_521_600));
    let limiter = Limiter::new(MemoryStore::with_clock(clock.clone()));
    let plan = Limit::new("plan", "3/day".parse()?).algorithm(Algorithm::FixedWindow);

    for left in [2, 1, 0] {
        let decision = limiter.try_check(&plan, "ann");
        assert!(decision.is_allowed());
        assert_eq!(decision.remaining(), left);
    }
    let denied = limiter.try_check(&plan, "ann");
    let wait = denied.retry_after().ok_or("a denial says how long")?;
    println!("used up at noon, denied for {} h", wait.whole_secs() / 3600);
    assert_eq!(wait, Nanos::from_secs(12 * 3600));

    clock.advance(Duration::from(wait) - Duration::from_nanos(1));
    assert!(!limiter.try_check(&plan, "ann").is_allowed());
    clock.advance(Duration::from_nanos(1));
    assert!(limiter.try_check(&plan, "ann").is_allowed());
    println!("admitted at midnight, and not a nanosecond before");
    Ok(())
}
