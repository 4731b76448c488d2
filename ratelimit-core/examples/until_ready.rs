//! Keeping to somebody else's limit: wait for admission instead of being denied.
//!
//! `cargo run -p ratelimit-core --example until_ready`

use std::time::Duration;

use ratelimit_core::{Limit, Limiter, MemoryStore, TokioClock};
use tokio::time::{Instant, timeout};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let limiter = Limiter::new(MemoryStore::with_clock(TokioClock::default()));
    // The partner's API allows 10 calls a second; two at once are fine.
    let partner = Limit::new("partner-api", "10/s".parse()?).burst(2);

    let start = Instant::now();
    for call in 1..=6 {
        let decision = limiter.until_ready(&partner, ()).await?;
        println!("call {call} after {:>3} ms, {} left", start.elapsed().as_millis(), decision.remaining());
    }
    // Two at once, and four more at a tenth of a second each.
    assert!(start.elapsed() >= Duration::from_millis(399));

    // Giving up costs nothing: the next one does not wait behind those who left.
    for _ in 0..3 {
        assert!(timeout(Duration::from_millis(5), limiter.until_ready(&partner, ())).await.is_err());
    }
    let _ = limiter.until_ready(&partner, ()).await?;
    println!("after three that gave up: {} ms", start.elapsed().as_millis());
    assert!(start.elapsed() >= Duration::from_millis(499));
    Ok(())
}
