//! What a decision costs a real Redis, and its client: ours in batches of what waits, beside one `EVALSHA` a
//! decision in pipelines of 32 (what most libraries do at best) and a bare `INCR`. CPU time, from /proc, of one
//! server in alternating rounds of one run; medians. And how long a decision takes when nothing else is under way,
//! beside an `EVALSHA` over a connection of the same kind: all beyond it is ours.
//!
//!     cargo run --release -p benches --bin redis [-- --json FILE]

use std::cell::Cell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use benches::report::{Report, Result, Spread, ended, needs};
use ratelimit_core::algorithm::Op;
use ratelimit_core::store::Charge;
use ratelimit_core::{Algorithm, KeyBuf, Limit, Store};
use ratelimit_redis::{OnFailure, RedisStore};
use redis_testkit::Server;

const ROUNDS: usize = 5;
const KEYS: u64 = 100_000;
/// Decisions that are made one after the other.
const LONE: usize = 20_000;
/// Tasks that ask at once, so that about 32 wait when a call of two has been answered.
const TASKS: u64 = 96;

/// The token bucket as libraries write it.
const NAIVE: &str = r"
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local tat = tonumber(redis.call('GET', KEYS[1]) or 0)
if tat < now then tat = now end
local after = tat + tonumber(ARGV[1])
if after - now > tonumber(ARGV[2]) then return {0, after - now - tonumber(ARGV[2])} end
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000) + 1)
return {1, after - now}
";

/// CPU seconds of a process, or of this one.
fn cpu(pid: Option<u32>) -> f64 {
    let path = pid.map_or("/proc/self/stat".to_owned(), |pid| format!("/proc/{pid}/stat"));
    let stat = std::fs::read_to_string(path).expect("the process runs");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks: f64 = fields[11].parse::<f64>().expect("ticks") + fields[12].parse::<f64>().expect("ticks");
    ticks / 100.0
}

/// Calls of scripts that the server has had.
fn calls(server: &Server) -> f64 {
    let info = server.command(&["INFO", "commandstats"]).expect("statistics");
    let text: String = redis::from_redis_value(info).expect("a text");
    let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0.0)
}

/// Microseconds of CPU a decision, the server's and this process's, and decisions a call.
struct Cost(f64, f64, f64);

fn measured(server: &Server, decisions: u64, work: impl FnOnce()) -> Cost {
    let (calls_before, server_before, own_before) = (calls(server), cpu(Some(server.pid())), cpu(None));
    work();
    let per = 1e6 / decisions as f64;
    let (server_cpu, own_cpu) = (cpu(Some(server.pid())) - server_before, cpu(None) - own_before);
    let calls = calls(server) - calls_before;
    Cost(server_cpu * per, own_cpu * per, decisions as f64 / calls)
}

fn number(state: &mut u64, of: u64) -> u64 {
    *state = state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
    ((u128::from(*state) * u128::from(of)) >> 64) as u64
}

type Run<'a> = Box<dyn FnMut() -> Cost + 'a>;

struct Ours {
    runtime: tokio::runtime::Runtime,
    store: Rc<RedisStore>,
    state: Cell<u64>,
}

impl Ours {
    fn new(server: &Server) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let builder = RedisStore::builder(server.url()).on_failure(OnFailure::Error);
        let builder = builder.deadline(Duration::from_secs(5));
        let store = Rc::new(runtime.block_on(builder.connect()).expect("a store"));
        Self { runtime, store, state: Cell::new(7) }
    }

    /// One decision over each of `limits` for `decisions` keys; how many were admitted.
    fn run(&self, limits: &[Limit], decisions: u64, in_order: bool) -> u64 {
        let left = Rc::new(Cell::new(decisions));
        let admitted = Rc::new(Cell::new(0));
        let tasks = tokio::task::LocalSet::new();
        for task in 0..TASKS {
            let (store, limits) = (Rc::clone(&self.store), limits.to_vec());
            let (left, admitted) = (Rc::clone(&left), Rc::clone(&admitted));
            self.state.set(self.state.get() + 2);
            let mut state = self.state.get().wrapping_mul(task + 1) | 1;
            tasks.spawn_local(async move {
                while let Some(rest) = left.get().checked_sub(1) {
                    left.set(rest);
                    let mut key = KeyBuf::new();
                    key.push_u64(if in_order { rest } else { number(&mut state, KEYS) });
                    let charges: Vec<_> = limits
                        .iter()
                        .map(|limit| Charge { limit, key: key.key(), op: Op::Take(1) })
                        .collect();
                    let verdict = match store.try_decide(&charges) {
                        Some(verdict) => verdict,
                        None => store.decide(&charges).await.expect("a decision"),
                    };
                    admitted.set(admitted.get() + u64::from(verdict.admitted));
                }
            });
        }
        self.runtime.block_on(tasks);
        admitted.get()
    }
}

fn naive(server: &Server, decisions: u64, state: &mut u64) {
    let mut connection = server.connection();
    let sha: String = redis::cmd("SCRIPT").arg("LOAD").arg(NAIVE).query(&mut connection).expect("loaded");
    for _ in 0..decisions / 32 {
        let mut pipe = redis::pipe();
        for _ in 0..32 {
            let key = format!("naive:client-{:020}", number(state, KEYS));
            pipe.cmd("EVALSHA").arg(&sha).arg(1).arg(key).arg(10_000).arg(10_000_000_000_u64);
        }
        let _: Vec<(i64, i64)> = pipe.query(&mut connection).expect("answers");
    }
}

/// How long a decision takes that is alone, and how long a bare `EVALSHA`, each after the other.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures the time")]
fn alone(server: &Server, ours: &Ours) -> [Vec<Duration>; 2] {
    let limit = Limit::new("alone", "100/s".parse().expect("a rate")).burst(1_000_000);
    let client = redis::Client::open(server.url()).expect("an address");
    let mut took = [Vec::new(), Vec::new()];
    ours.runtime.block_on(async {
        let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
        let load = redis::cmd("SCRIPT").arg("LOAD").arg(NAIVE).query_async(&mut connection).await;
        let sha: String = load.expect("loaded");
        let mut state = 11;
        for round in 0..LONE + LONE / 10 {
            let number = number(&mut state, KEYS);
            let mut key = KeyBuf::new();
            key.push_u64(number);
            let start = Instant::now();
            let charges = [Charge { limit: &limit, key: key.key(), op: Op::Take(1) }];
            ours.store.decide(&charges).await.expect("a decision");
            let decided = Instant::now();
            let mut call = redis::cmd("EVALSHA");
            call.arg(&sha)
                .arg(1)
                .arg(format!("naive:client-{number:020}"))
                .arg(10_000)
                .arg(10_000_000_000_u64);
            let _: (i64, i64) = call.query_async(&mut connection).await.expect("an answer");
            // The first ones only warm up.
            if round >= LONE / 10 {
                took[0].push(decided - start);
                took[1].push(decided.elapsed());
            }
        }
    });
    took
}

fn increments(server: &Server, decisions: u64, state: &mut u64) {
    let mut connection = server.connection();
    for _ in 0..decisions / 32 {
        let mut pipe = redis::pipe();
        for _ in 0..32 {
            pipe.cmd("INCR").arg(format!("incr:client-{:020}", number(state, KEYS)));
        }
        let _: Vec<i64> = pipe.query(&mut connection).expect("answers");
    }
}

fn main() -> ExitCode {
    ended(measure())
}

fn measure() -> Result<()> {
    let (mut report, _) = Report::from_arguments()?;
    needs("redis-server", "redis-server")?;
    let server = Server::start();
    let ours = Ours::new(&server);
    let bucket = |name: &str| Limit::new(name, "100/s".parse().expect("a rate")).burst(1_000_000);
    let sliding = Limit::new("s", "1000000/min".parse().expect("a rate")).algorithm(Algorithm::SlidingWindow);
    let mut state = 1;
    let each = 200_000;
    let over = |limits: Vec<Limit>, decisions: u64| -> Run<'_> {
        let (server, ours) = (&server, &ours);
        Box::new(move || {
            measured(server, each, || {
                ours.run(&limits, decisions, false);
            })
        })
    };
    let runs: [(&str, Run<'_>); 4] = [
        (
            "one EVALSHA a decision, pipelined",
            Box::new(|| measured(&server, each, || naive(&server, each, &mut state))),
        ),
        ("ours, one limit", over(vec![bucket("one")], each)),
        ("ours, two limits, per limit", over(vec![bucket("two-a"), bucket("two-b")], each / 2)),
        ("ours, sliding window", over(vec![sliding], each)),
    ];
    let mut rows: Vec<(&str, Run<'_>, [Vec<f64>; 3])> =
        runs.into_iter().map(|(name, run)| (name, run, Default::default())).collect();
    for round in 0..=ROUNDS {
        for (_, run, samples) in &mut rows {
            let Cost(server, client, batch) = run();
            // The first round makes the keys.
            if round > 0 {
                samples[0].push(server);
                samples[1].push(client);
                samples[2].push(batch);
            }
        }
    }
    let mut results: Vec<(&str, [Spread; 3])> =
        rows.into_iter().map(|(name, _, samples)| (name, samples.map(Spread::of))).collect();
    let mut denied = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..3 {
        let once = [Limit::new(format!("once-{round}"), "1/day".parse().expect("a rate"))];
        assert_eq!(ours.run(&once, each, true), each);
        let Cost(server, client, batch) =
            measured(&server, each, || assert_eq!(ours.run(&once, each, true), 0));
        denied[0].push(server);
        denied[1].push(client);
        denied[2].push(batch);
    }
    results.push(("ours, all denied by the store", denied.map(Spread::of)));
    let mut state = 3;
    let Cost(floor, client, _) = measured(&server, each, || increments(&server, each, &mut state));
    results.push(("INCR, pipelined", [floor, client, 1.0].map(Spread::from)));
    let naive = results.first().map_or(f64::NAN, |(_, [server, ..])| server.median());
    println!("| | a call | server µs a decision | × one EVALSHA | decisions a CPU second | client µs |");
    println!("|---|---|---|---|---|---|");
    for (name, [server, client, batch]) in results {
        let times = server.median() / naive;
        println!(
            "| {name} | {:.0} | {server:.2} | {times:.2} | {:.0} k | {client:.2} |",
            batch.median(),
            1e3 / server.median()
        );
        let figures = [
            ("a call", batch),
            ("server µs", server),
            ("× one EVALSHA", times.into()),
            ("client µs", client),
        ];
        for (what, spread) in figures {
            report.add(name, "ratelimit-redis", what, spread);
        }
    }
    let [ours, bare] = alone(&server, &ours).map(|mut took| {
        took.sort();
        [50, 99]
            .map(|share| took.get(took.len() * share / 100).map_or(f64::NAN, |took| took.as_secs_f64() * 1e6))
    });
    println!("\n| alone, µs | median | p99 |\n|---|---|---|");
    println!("| a decision | {:.0} | {:.0} |", ours[0], ours[1]);
    println!("| a bare EVALSHA | {:.0} | {:.0} |", bare[0], bare[1]);
    println!("| more | {:.0} | {:.0} |", ours[0] - bare[0], ours[1] - bare[1]);
    for (who, [median, most]) in [("ratelimit-redis", ours), ("a bare EVALSHA", bare)] {
        report.add("alone", who, "µs", median.into());
        report.add("alone", who, "p99 µs", most.into());
    }
    report.write()
}
