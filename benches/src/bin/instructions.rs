//! Work whose instructions `benches/instructions.py` counts: one case a run, so often.
//!
//!     instructions CASE REPETITIONS
//!
//! Only what [`measured`] calls is counted; of the exchanges, what all threads take meanwhile.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use benches::report::{Result, ended};
use benches::served::Served;

use benches::request::{BY_CLIENT, TWO, facts, headers, policy};
use benches::{Contender, Keys, Ours, warm_up};
use http::HeaderMap;
use ratelimit_core::fields::Told;
use ratelimit_core::{AsKey, Fields, KeyBuf, Limit, Limiter, MemoryStore, Nanos};
use ratelimit_proxy::path::NormalPath;

/// Keys of a case about decisions: enough that no place in the table stands for all.
const KEYS: u64 = 10_000;
/// Long enough for a thread to fall asleep under callgrind on a busy machine.
const PAUSE: Duration = Duration::from_millis(4);

fn main() -> ExitCode {
    ended(run())
}

fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let case = arguments.next().unwrap_or_default();
    let times = arguments.next().and_then(|number| number.parse().ok()).unwrap_or(1);
    match case.as_str() {
        "keys" => {
            let mut keys = Keys::new(KEYS, 7);
            measured(times, || keys.next().len() > 1);
        }
        "decision" => decision(1, false, times),
        "decision, denied" => decision(1, true, times),
        "decision, 2 limits" => decision(2, false, times),
        "decision, 2 limits, denied" => decision(2, true, times),
        "decision, 8 limits" => decision(8, false, times),
        "fields" => fields(times),
        "key of a tuple" => {
            let mut buffer = KeyBuf::new();
            measured(times, || {
                buffer.clear();
                black_box(("k-0123456789abcdef", "users", 7_u32)).encode(&mut buffer);
                buffer.len() > 1
            });
        }
        "path, normal" => path("/v1/users/1234567/orders", times),
        "path, escaped" => path("/v1//users/%7ejos%C3%A9/./a%20b/../orders", times),
        "policy, by client" => select(BY_CLIENT, times),
        "policy, 2 limits by header and path" => select(TWO, times),
        "exchange, allowed" => return exchange(false, times),
        "exchange, denied" => return exchange(true, times),
        _ => return Err(format!("there is no case {case:?}").into()),
    }
    Ok(())
}

/// One connection, one request at a time, so that no count depends on what happens to be ready together.
fn exchange(denied: bool, times: u64) -> Result<()> {
    let mut served = Served::start(denied, PAUSE)?;
    let (wanted, mut answered) = (if denied { 429 } else { 200 }, 0);
    measured(times, || {
        let right = matches!(served.exchange(), Ok(status) if status == wanted);
        answered += u64::from(right);
        right
    });
    if answered == times {
        Ok(())
    } else {
        Err(format!("{answered} of {times} answers were of {wanted}").into())
    }
}

/// What is counted.
#[inline(never)]
fn measured(times: u64, mut work: impl FnMut() -> bool) {
    for _ in 0..times {
        black_box(work());
    }
}

fn decision(limits: usize, denying: bool, times: u64) {
    // Under callgrind time passes fifty times as fast for the clock as for the work: nothing may recover meanwhile.
    let (rate, burst) = if denying { ("1/day", 1) } else { ("1/h", 1000) };
    let limiter = Ours::with(limits, rate, burst);
    warm_up(&limiter, KEYS);
    let mut keys = Keys::new(KEYS, 7);
    measured(times, || limiter.check(keys.next()));
}

fn fields(times: u64) {
    let limiter = Limiter::new(MemoryStore::default());
    let limit = Limit::new("per-client", "1000000/h".parse().expect("a rate"));
    let (fields, mut told, mut headers) = (Fields::default(), Told::default(), HeaderMap::new());
    measured(times, || {
        headers.clear();
        let decision = limiter.try_check(&limit, "ann");
        fields.write_again(&decision, &mut told, None, Nanos::ZERO, &mut headers);
        headers.len() > 1
    });
}

fn path(raw: &str, times: u64) {
    measured(times, || NormalPath::parse(black_box(raw)).is_ok());
}

fn select(limits: &str, times: u64) {
    let (policy, headers) = (policy(limits), headers());
    let facts = facts(&headers);
    let mut keys = KeyBuf::new();
    measured(times, || {
        keys.clear();
        policy.select(black_box(&facts), &mut keys).is_ok_and(|selection| !selection.hits.is_empty())
    });
}
