//! What a decision out of a lease costs this process, beside one of the memory store: one thread, alternating
//! rounds of one run over a real Redis, medians.
//!
//!     cargo run --release -p benches --bin leased
//!
//! `--json FILE` writes the figures there. With an argument, `memory` or `leased`, makes a million decisions of that kind and nothing else, for a profiler.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures the time")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use benches::report::{Report, Result, Spread, ended, needs};
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
fn decide<S: Store>(runtime: &Runtime, store: &S, limit: &Limit, keys: u64, count: u64) -> Result<u64> {
    let mut waited = 0;
    runtime.block_on(async {
        for number in 0..count {
            let mut key = KeyBuf::new();
            key.push_u64(number % keys);
            let charges = [Charge { limit, key: key.key(), op: Op::Take(1) }];
            if store.try_decide(&charges).is_none() {
                waited += 1;
                store.decide(&charges).await?;
            }
            if number % 256 == 0 {
                // What was asked ahead is answered.
                tokio::task::yield_now().await;
            }
        }
        Ok(waited)
    })
}

fn main() -> ExitCode {
    ended(measure())
}

fn measure() -> Result<()> {
    let (mut report, arguments) = Report::from_arguments()?;
    needs("redis-server", "redis-server")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = Server::start();
    let builder = RedisStore::builder(server.url()).on_failure(OnFailure::Error);
    let store = runtime.block_on(builder.deadline(Duration::from_secs(5)).connect())?;
    let (leased, memory): (LeasedStore<RedisStore>, _) = (store.leased(), MemoryStore::default());
    let limit = Limit::new("bench", "1000000/s".parse()?).burst(10_000_000);
    match arguments.first().map(String::as_str) {
        None => {}
        Some("memory") => {
            decide(&runtime, &memory, &limit, 1, 1_000_000)?;
            return Ok(());
        }
        Some("leased") => {
            let waited = decide(&runtime, &leased, &limit, 1, 1_000_000)?;
            println!("{waited} waited");
            return Ok(());
        }
        Some(other) => return Err(format!("memory or leased, not {other}").into()),
    }
    println!("| | memory ns | leased ns | ratio | waited for the store |");
    println!("|---|---|---|---|---|");
    for keys in [1, 100] {
        let mut samples = [Vec::new(), Vec::new(), Vec::new()];
        let mut waited = 0;
        for round in 0..=ROUNDS {
            let start = Instant::now();
            decide(&runtime, &memory, &limit, keys, EACH)?;
            let middle = Instant::now();
            waited = decide(&runtime, &leased, &limit, keys, EACH)?;
            let each = |length: Duration| length.as_secs_f64() * 1e9 / EACH as f64;
            if round > 0 {
                let (memory, leased) = (each(middle - start), each(middle.elapsed()));
                for (samples, value) in samples.iter_mut().zip([memory, leased, leased / memory]) {
                    samples.push(value);
                }
            }
        }
        let [memory, leased, ratio] = samples.map(Spread::of);
        println!("| {keys} keys | {memory:.0} | {leased:.0} | {ratio:.1} | {waited} of {EACH} |");
        let case = format!("{keys} keys");
        report.add(&case, "memory", "ns", memory);
        report.add(&case, "leased", "ns", leased);
        report.add(&case, "leased", "ratio", ratio);
        report.add(&case, "leased", "waited, of a thousand", (waited as f64 * 1e3 / EACH as f64).into());
    }
    report.write()
}
