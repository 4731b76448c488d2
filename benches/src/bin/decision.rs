//! Our limiter beside governor: nanoseconds a decision, in alternating rounds of one run, and the ratio of the
//! medians.
//!
//!     cargo run --release -p benches --bin decision

use benches::{Contender, Governor, Ours, run, warm_up};

const ROUNDS: usize = 9;

struct Row {
    name: &'static str,
    keys: u64,
    threads: usize,
    denying: bool,
    decisions: u64,
}

const ROWS: [Row; 8] = [
    Row { name: "1 key", keys: 1, threads: 1, denying: false, decisions: 3_000_000 },
    Row { name: "10 k keys", keys: 10_000, threads: 1, denying: false, decisions: 3_000_000 },
    Row { name: "1 M keys", keys: 1_000_000, threads: 1, denying: false, decisions: 1_500_000 },
    Row { name: "5 M keys", keys: 5_000_000, threads: 1, denying: false, decisions: 1_500_000 },
    Row { name: "1 key", keys: 1, threads: 2, denying: false, decisions: 2_000_000 },
    Row { name: "1 key, denied", keys: 1, threads: 2, denying: true, decisions: 3_000_000 },
    Row { name: "10 k keys", keys: 10_000, threads: 2, denying: false, decisions: 2_000_000 },
    Row { name: "1 M keys", keys: 1_000_000, threads: 2, denying: false, decisions: 1_500_000 },
];

fn main() {
    println!("| keys | threads | {} ns | {} ns | times as fast |", Ours::NAME, Governor::NAME);
    println!("|---|---|---|---|---|");
    for row in ROWS {
        let (ours, peer) = (Ours::new(row.denying), Governor::new(row.denying));
        warm_up(&ours, row.keys);
        warm_up(&peer, row.keys);
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let [a, b] = &mut samples;
            a.push(nanos(&ours, &row));
            b.push(nanos(&peer, &row));
        }
        let [ours, peer] = samples.map(median);
        println!("| {} | {} | {ours:.1} | {peer:.1} | {:.2} |", row.name, row.threads, peer / ours);
    }
}

fn nanos<C: Contender>(limiter: &C, row: &Row) -> f64 {
    run(limiter, row.keys, row.threads, row.decisions).as_secs_f64() * 1e9 / row.decisions as f64
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
