//! What a growing table costs: bytes a key, the longest a caller is held up while it grows, and decisions when
//! every key is new.
//!
//! Held up are callers by work that another does under the lock of a part of the table, and by that work where
//! it is their own. So the longest pause is measured as the processor time of the slowest call of all: unlike
//! time on the wall it does not count what other programs of the machine do meanwhile.
//!
//!     cargo run --release -p benches --bin growth [-- --json FILE]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use benches::Keys;
use benches::report::{Report, Result, ended};
use ratelimit_core::{Limit, Limiter, MemoryStore, Rate};

const MOST: u64 = 5_000_000;

fn main() -> ExitCode {
    ended(measure())
}

fn measure() -> Result<()> {
    let (mut report, others) = Report::from_arguments()?;
    if let Some(word) = others.first() {
        return Err(format!("there is no option {word}").into());
    }
    let limiter = Limiter::new(MemoryStore::default().max_keys(8_000_000));
    let limit = Limit::new("day", Rate::per_hour(1)).burst(1000);
    let mut keys = Keys::new(MOST, 1);
    println!(
        "| keys | bytes a key | ns a new key, measuring included | CPU time of the slowest call so far |"
    );
    println!("|---|---|---|---|");
    let mut next = 100_000;
    let mut worst = Duration::ZERO;
    let mut largest = 0.0_f64;
    let (mut began, mut since) = (now(), 0);
    for number in 0..MOST {
        let key = keys.write(number);
        // The thread's own time: what other programs take from it is not the table's doing.
        let before = cpu_time();
        let allowed = limiter.try_check(&limit, key).is_allowed();
        worst = worst.max(cpu_time().saturating_sub(before));
        assert!(allowed, "every key is new");
        if number + 1 == next || number + 1 == MOST {
            let count = number + 1;
            let bytes = limiter.store().bytes(&limit) as f64 / count as f64;
            let each = began.elapsed().as_nanos() as f64 / (count - since) as f64;
            println!("| {count} | {bytes:.1} | {each:.0} | {worst:.0?} |");
            let case = format!("{count} keys");
            report.add(&case, "ratelimit-core", "bytes a key", bytes.into());
            report.add(&case, "ratelimit-core", "ns a new key", each.into());
            (began, since) = (now(), count);
            next = next * 5 / 4;
            largest = largest.max(bytes);
        }
    }
    println!("\nat most {largest:.1} bytes a key and {worst:.0?} a call");
    report.add("all", "ratelimit-core", "bytes a key at most", largest.into());
    report.add("all", "ratelimit-core", "µs of the slowest call", (worst.as_secs_f64() * 1e6).into());
    report.add("churn", "ratelimit-core", "ns a key", churn().into());
    report.write()
}

/// Every key is used once and recovers within a second: the table must stay as small as what is alive. Gives nanoseconds a key.
fn churn() -> f64 {
    // Room for what is alive at once, however fast the machine.
    let limiter = Limiter::new(MemoryStore::default().max_keys(8_000_000));
    let limit = Limit::new("second", Rate::per_second(1));
    let mut keys = Keys::new(MOST, 1);
    let began = now();
    let count = 20_000_000;
    for number in 0..count {
        let _ = limiter.try_check(&limit, keys.write(number)).is_allowed();
    }
    let each = began.elapsed().as_nanos() as f64 / count as f64;
    let (alive, bytes) = (limiter.store().keys(&limit), limiter.store().bytes(&limit));
    println!("\nchurn: {count} keys, each used once and recovered a second later: {each:.0} ns each;");
    println!(
        "{alive} alive at the end, {bytes} bytes held, {} decisions on a full table",
        limiter.store().overflowed(&limit)
    );
    each
}

fn cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap_or(0))
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}
