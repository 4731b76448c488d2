//! The lease protocol, simulated: replicas, a network and a store in one thread, from a seed. Whatever happens,
//! no key is admitted more than its limit's bound in any interval; and the calls that leases are there to save
//! are saved. A failing run names its seed.
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "figures")]

mod judge;
mod scenarios;
mod world;

use judge::Judge;
use ratelimit_core::Nanos;
use ratelimit_core::algorithm::{Gcra, Op};
use scenarios::{COUNT, Scenario, rough, scenario, steady};
use world::{Arrival, Fault, MICRO, MILLI, Network, Quota, SECOND, Seen, Setup, World};

/// What one ideal bucket for each key would admit of it.
fn ideal(quota: Quota, arrivals: &[Arrival]) -> u64 {
    let bucket = Gcra::new(1, Nanos::new(quota.nanos()), quota.burst, 0).unwrap();
    let mut buckets = std::collections::HashMap::new();
    let mut admitted = 0;
    for arrival in arrivals {
        let tat = buckets.entry(arrival.key).or_insert(0);
        let (after, outcome) = bucket.step(*tat, Nanos::new(arrival.at), Op::Take(arrival.units));
        *tat = after.unwrap_or(*tat);
        admitted += u64::from(outcome.admitted);
    }
    admitted
}

struct Figures {
    calls: f64,
    used: f64,
    held: f64,
}

fn figures(seen: &Seen, quota: Quota, arrivals: &[Arrival]) -> Figures {
    Figures {
        calls: seen.calls as f64 / seen.requests as f64,
        used: seen.admitted as f64 / ideal(quota, arrivals) as f64,
        held: seen.held / seen.samples.max(1) as f64,
    }
}

/// Runs it, and holds every key to the bound with not a nanosecond more.
fn run(scenario: &Scenario, seed: u64) -> Figures {
    let world = World::new(Setup::new(scenario.quota, scenario.replicas, seed)).run(&scenario.arrivals);
    for (key, judge) in &world.judges {
        let excess = judge.excess(scenario.quota.nanos(), scenario.quota.burst);
        assert_eq!(excess, 0, "{}, seed {seed}: key {key} is over its bound by {excess} ns", scenario.name);
    }
    let seen = &world.seen;
    let all = seen.admitted + seen.denied + seen.failed;
    assert_eq!(all, seen.requests, "{}, seed {seed}: every request is answered once: {seen:?}", scenario.name);
    let figures = figures(seen, scenario.quota, &scenario.arrivals);
    println!(
        "{:32} seed {seed:3}  calls {:.4}  used {:.3}  held {:4.1} %",
        scenario.name,
        figures.calls,
        figures.used,
        100.0 * figures.held
    );
    figures
}

#[test]
fn ten_scenarios_stay_within_the_bound_and_use_the_quota() {
    for number in 1..=COUNT {
        let figures = run(&scenario(number, 100 + number as u64), number as u64);
        assert!(figures.used >= 0.85, "scenario {number} used {:.3} of its quota", figures.used);
    }
}
