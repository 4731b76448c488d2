//! The store's clock is set while we run: rows 107 and 108 of the fault catalogue. Its clock is the machine's and
//! stays as it is; what it stored is rewritten as a clock an hour ahead, or behind, would have stored it.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use ratelimit_core::time::Clock;
use ratelimit_core::{Algorithm, Limit, SystemClock};
use ratelimit_redis::RedisStore;
use redis_testkit::Server;
use support::{strict, take, until};

const HOUR: f64 = 3_600_000_000.0;

/// Moves the times in the only value by an hour, for a clock that steps back (`1.0`) or forward (`-1.0`).
fn rewrite(server: &Server, algorithm: Algorithm, direction: f64) {
    let mut connection = server.connection();
    let keys: Vec<String> = redis::cmd("KEYS").arg("rl:v1:{10}:?????*").query(&mut connection).expect("keys");
    let name = keys.iter().find(|key| key.len() == 34).expect("our key");
    let mut value: Vec<u8> = redis::cmd("GET").arg(name).query(&mut connection).expect("a value");
    let cell = f64::from_le_bytes(value[..8].try_into().expect("eight bytes"));
    let mut shift = |at: usize, by: f64| {
        let bytes: [u8; 8] = value[at..at + 8].try_into().expect("eight bytes");
        value[at..at + 8].copy_from_slice(&(f64::from_le_bytes(bytes) + direction * by).to_le_bytes());
    };
    match algorithm {
        // Until when it is full again, and to which the expiry reaches.
        Algorithm::TokenBucket => [0, 16].into_iter().for_each(|at| shift(at, HOUR)),
        // The cell's number, and to which the expiry reaches.
        Algorithm::SlidingWindow => {
            [(8, HOUR / cell), (16, HOUR)].into_iter().for_each(|(at, by)| shift(at, by))
        }
        _ => shift(0, HOUR),
    }
    if direction > 0.0 {
        // An expiry is a moment, too: it is further away than it was meant.
        let set = redis::cmd("SET").arg(name).arg(value).arg("PX").arg(3_660_000).query(&mut connection);
        let () = set.expect("written");
    } else {
        // It has passed.
        let () = redis::cmd("DEL").arg(name).query(&mut connection).expect("deleted");
    }
}

/// How many of twenty are admitted at once.
async fn burst(store: &RedisStore, limit: &Limit) -> u32 {
    let mut count = 0;
    for _ in 0..20 {
        count += u32::from(take(store, limit, "k").await.expect("a decision").admitted);
    }
    count
}

fn limits() -> [Limit; 3] {
    [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow]
        .map(|algorithm| Limit::new("l", "5/2s".parse().expect("a rate")).algorithm(algorithm))
}

/// Row 107: nobody is locked out for an hour, and nothing is given away.
#[tokio::test]
async fn row_107_a_step_back_locks_nobody_out() {
    for limit in limits() {
        let server = Server::start();
        let store = strict(&server.url()).await;
        assert!(burst(&store, &limit).await >= 5);
        rewrite(&server, limit.spec().algorithm, 1.0);
        let clock = SystemClock::default();
        let start = clock.now();
        // What is known to be denied is known for a second; another replica asks the store.
        let other = strict(&server.url()).await;
        let first = take(&other, &limit, "k").await.expect("a decision");
        if limit.spec().algorithm != Algorithm::FixedWindow {
            assert!(!first.admitted, "the step gave something away: {limit:?}");
        }
        until("recovery", async || take(&other, &limit, "k").await.expect("a decision").admitted).await;
        let took = Duration::from(clock.now().saturating_sub(start));
        assert!(took < Duration::from_secs(6), "{limit:?} was locked out for {took:?}");
    }
}

/// Row 108: what expires too early is one fresh burst.
#[tokio::test]
async fn row_108_a_step_forward_is_one_fresh_burst() {
    for algorithm in [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow] {
        let limit = Limit::new("l", "5/week".parse().expect("a rate")).algorithm(algorithm);
        let server = Server::start();
        let store = strict(&server.url()).await;
        assert_eq!(burst(&store, &limit).await, 5);
        rewrite(&server, algorithm, -1.0);
        let other = strict(&server.url()).await;
        assert_eq!(burst(&other, &limit).await, 5, "{algorithm}");
        assert_eq!(burst(&other, &limit).await, 0, "{algorithm}");
    }
}
