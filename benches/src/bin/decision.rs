//! Our limiter beside governor: nanoseconds a decision, in alternating rounds of one run.
//!
//! cargo run --release -p benches --bin decision              # everything, about two minutes
//! cargo run --release -p benches --bin decision -- '1 M' denied    # the rows whose name has one of these
//! cargo run --release -p benches --bin decision -- --raw           # beside bare maps as well
//! cargo run --release -p benches --bin decision -- --quick         # five rounds instead of eleven
//! cargo run --release -p benches --bin decision -- --json FILE     # writes the figures there as well
//!
//! Printed are the median of each with the quartiles beside it, and the median of the rounds' ratios.

use std::process::ExitCode;

use benches::report::{Report, Result, Spread, ended};
use benches::{Contender, Governor, Ours, OverDashMap, OverMutex, run, warm_up};

const ROUNDS: usize = 11;
const QUICK_ROUNDS: usize = 5;

struct Row {
    name: &'static str,
    keys: u64,
    threads: usize,
    limits: usize,
    denying: bool,
    decisions: u64,
}

const fn row(name: &'static str, keys: u64, threads: usize, decisions: u64) -> Row {
    Row { name, keys, threads, limits: 1, denying: false, decisions }
}

const fn limits(name: &'static str, limits: usize) -> Row {
    Row { limits, ..row(name, 10_000, 1, 2_000_000 / limits as u64) }
}

const ROWS: [Row; 13] = [
    row("1 key", 1, 1, 2_000_000),
    Row { denying: true, ..row("1 key, denied", 1, 1, 2_000_000) },
    row("10 k keys", 10_000, 1, 1_500_000),
    row("1 M keys", 1_000_000, 1, 700_000),
    row("5 M keys", 5_000_000, 1, 700_000),
    row("1 key", 1, 2, 1_500_000),
    Row { denying: true, ..row("1 key, denied", 1, 2, 2_000_000) },
    row("10 k keys", 10_000, 2, 1_000_000),
    row("1 M keys", 1_000_000, 2, 700_000),
    limits("10 k keys, 1 limit", 1),
    limits("10 k keys, 2 limits", 2),
    limits("10 k keys, 8 limits", 8),
    limits("10 k keys, 32 limits", 32),
];

fn main() -> ExitCode {
    ended(measure())
}

fn measure() -> Result<()> {
    let (mut report, arguments) = Report::from_arguments()?;
    let (options, wanted): (Vec<String>, Vec<String>) =
        arguments.into_iter().partition(|word| word.starts_with("--"));
    let (mut raw, mut rounds) = (false, ROUNDS);
    for option in options {
        match option.as_str() {
            "--raw" => raw = true,
            "--quick" => rounds = QUICK_ROUNDS,
            _ => return Err(format!("there is no option {option}").into()),
        }
    }
    print!("| | threads | {} ns | {} ns | times as fast |", Ours::NAME, Governor::NAME);
    println!("{}", if raw { " dashmap ns | mutex ns |" } else { "" });
    println!("|---|---|---|---|---|{}", if raw { "---|---|" } else { "" });
    for row in ROWS {
        if !wanted.is_empty() && !wanted.iter().any(|word| row.name.contains(word)) {
            continue;
        }
        let (ours, peer) = (Ours::new(row.limits, row.denying), Governor::new(row.limits, row.denying));
        warm_up(&ours, row.keys);
        warm_up(&peer, row.keys);
        let mut samples = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..rounds {
            let (a, b) = (nanos(&ours, &row), nanos(&peer, &row));
            for (samples, value) in samples.iter_mut().zip([a, b, b / a]) {
                samples.push(value);
            }
        }
        let [ours, peer, ratio] = samples.map(Spread::of);
        let case = format!("{}, {} thread{}", row.name, row.threads, if row.threads == 1 { "" } else { "s" });
        report.add(&case, Ours::NAME, "ns", ours);
        report.add(&case, Governor::NAME, "ns", peer);
        report.add(&case, Ours::NAME, "times as fast", ratio);
        print!("| {} | {} | {ours:.1} | {peer:.1} | {ratio:.2} |", row.name, row.threads);
        if raw {
            let (dashmap, mutex) = (alone::<OverDashMap>(&row, rounds), alone::<OverMutex>(&row, rounds));
            report.add(&case, OverDashMap::NAME, "ns", dashmap);
            report.add(&case, OverMutex::NAME, "ns", mutex);
            print!(" {dashmap:.1} | {mutex:.1} |");
        }
        println!();
    }
    report.write()
}

fn alone<C: Contender>(row: &Row, rounds: usize) -> Spread {
    let limiter = C::new(row.limits, row.denying);
    warm_up(&limiter, row.keys);
    Spread::of((0..rounds).map(|_| nanos(&limiter, row)).collect())
}

fn nanos<C: Contender>(limiter: &C, row: &Row) -> f64 {
    run(limiter, row.keys, row.threads, row.decisions).as_secs_f64() * 1e9 / row.decisions as f64
}
