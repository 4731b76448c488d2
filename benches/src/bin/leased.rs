//! What a decision out of a lease costs this process, beside one of the memory store: one thread, alternating
//! rounds of one run over a real Redis, medians.
//!
//!     cargo run --release -p benches --bin leased
//!
//! With an argument, `memory` or `leased`, makes a million decisions of that kind and nothing else, for a profiler.

use std::time::{Duration, Instant};

use ratelimit_core::algorithm::Op;
use ratelimit_core::store::Charge;
use ratelimit_core::{KeyBuf, Limit, MemoryStore, Store};
use ratelimit_redis::lease::LeasedStore;
use ratelimit_redis::{OnFailure, RedisStore};
use redis_testkit::Server;
use tokio::runtime::Runtime;

const ROUNDS: usize = 9;
const EACH: u64 = 300_000;

/// Decides `count` times, over so many keys; how many of them waited for the store.
fn decide<S: Store>(runtime: &Runtime, store: &S, limit: &Limit, keys: u64, count: u64) -> u64 {
    let mut waited = 0;
    runtime.block_on(async {
        for number in 0..count {
            let mut key = KeyBuf::new();
            key.push_u64(number % keys);
            let charges = [Charge { limit, key: key.key(), op: Op::Take(1) }];
            if store.try_decide(&charges).is_none() {
                waited += 1;
                store.decide(&charges).await.expect("a decision");
            }
            if number % 256 == 0 {
                // What was asked ahead is answered.
                tokio::task::yield_now().await;
            }
        }
    });
    waited
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server = Server::start();
    let builder = RedisStore::builder(server.url()).on_failure(OnFailure::Error);
    let store = runtime.block_on(builder.deadline(Duration::from_secs(5)).connect()).expect("a store");
    let (leased, memory): (LeasedStore<RedisStore>, _) = (store.leased(), MemoryStore::default());
    let limit = Limit::new("bench", "1000000/s".parse().expect("a rate")).burst(10_000_000);
    match std::env::args().nth(1).as_deref() {
        Some("memory") => {
            decide(&runtime, &memory, &limit, 1, 1_000_000);
            return;
        }
        Some("leased") => {
            let waited = decide(&runtime, &leased, &limit, 1, 1_000_000);
            println!("{waited} waited");
            return;
        }
        _ => {}
    }
    println!("| | memory ns | leased ns | ratio | waited for the store |");
    println!("|---|---|---|---|---|");
    for keys in [1, 100] {
        let mut samples = [Vec::new(), Vec::new()];
        let mut waited = 0;
        for round in 0..=ROUNDS {
            let start = Instant::now();
            decide(&runtime, &memory, &limit, keys, EACH);
            let middle = Instant::now();
            waited = decide(&runtime, &leased, &limit, keys, EACH);
            let each = |length: Duration| length.as_secs_f64() * 1e9 / EACH as f64;
            if round > 0 {
                samples[0].push(each(middle - start));
                samples[1].push(each(middle.elapsed()));
            }
        }
        let [memory, leased] = samples.map(median);
        println!("| {keys} keys | {memory:.0} | {leased:.0} | {:.1} | {waited} of {EACH} |", leased / memory);
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
