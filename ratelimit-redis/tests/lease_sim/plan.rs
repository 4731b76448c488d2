//! More replicas than any machine has: the same quotas over 10, 100 and 1000 of them.

use fastrand::Rng;

use crate::scenarios::poisson;
use crate::world::{Arrival, Fault, Quota, SECOND, Setup, World};

/// What is asked, of how many replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// 10 000/s over 2000 keys, Zipf 1.1, each of which may have 100/s.
    Zipf,
    /// 6000/s of one key that may have 5000/s, wherever they come.
    Hot,
    /// The same, nine of ten on one replica.
    Skewed,
    /// Zipf, and half of the replicas can't reach the store for a minute.
    Parted,
}

pub const LOADS: [Load; 4] = [Load::Zipf, Load::Hot, Load::Skewed, Load::Parted];

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    pub calls: f64,
    pub used: f64,
    /// By how much the worst key exceeded its bound without faults, and what the README allows, in units.
    pub over: f64,
    pub allowed: f64,
    /// Requests that a replica decided alone.
    pub alone: u64,
}

fn zipf() -> impl FnMut(&mut Rng) -> u32 {
    let mut total = 0.0;
    let upto: Vec<f64> = (1..=2000)
        .map(|rank| {
            total += f64::from(rank).powf(-1.1);
            total
        })
        .collect();
    move |rng| {
        let place = rng.f64() * total;
        u32::try_from(upto.partition_point(|&sum| sum < place)).unwrap()
    }
}

pub fn quota(load: Load) -> Quota {
    match load {
        Load::Zipf | Load::Parted => Quota::per_second(100, 200),
        Load::Hot | Load::Skewed => Quota::per_second(5000, 5000),
    }
}

fn arrivals(load: Load, replicas: usize, seconds: f64, seed: u64) -> Vec<Arrival> {
    let mut key = zipf();
    match load {
        Load::Zipf | Load::Parted => {
            poisson(seed, 10_000.0, seconds, move |rng| (rng.usize(0..replicas), key(rng)))
        }
        Load::Hot => poisson(seed, 6000.0, seconds, move |rng| (rng.usize(0..replicas), 0)),
        Load::Skewed => poisson(seed, 6000.0, seconds, move |rng| {
            (if rng.f64() < 0.9 { 0 } else { rng.usize(0..replicas) }, 0)
        }),
    }
}

/// Runs it; the partition, if there is one, lasts for `parted` seconds in the middle.
pub fn run(load: Load, replicas: usize, seconds: f64, parted: u64, seed: u64) -> Planned {
    let quota = quota(load);
    let arrivals = arrivals(load, replicas, seconds, seed);
    let mut setup = Setup::new(quota, replicas, seed);
    setup.local = true;
    let mut allowed = 0.0;
    if load == Load::Parted {
        let lost = replicas / 2;
        let begins = (seconds * 1e9) as u64 / 2 - parted * SECOND / 2;
        for number in 0..lost {
            setup.faults.push((begins, Fault::CutOff(number, parted * SECOND)));
        }
        // Until they find back, and use the store again; and a unit each.
        let lasts = parted as f64 + 3.5;
        let per_second = 1e9 / quota.nanos() as f64;
        allowed =
            (lost as f64 / replicas as f64) * (f64::from(quota.burst) + per_second * lasts) + replicas as f64;
    }
    let ideal = crate::ideal(quota, &arrivals);
    let world = World::new(setup).run(&arrivals);
    let over = world.judges.values().map(|judge| judge.excess(quota.nanos(), quota.burst)).max().unwrap_or(0);
    let over = over as f64 / quota.nanos() as f64;
    assert!(
        over <= allowed,
        "{load:?}, {replicas} replicas, seed {seed}: over by {over:.1} units of {allowed:.1}"
    );
    let seen = &world.seen;
    assert_eq!(seen.admitted + seen.denied + seen.failed, seen.requests, "{load:?}, seed {seed}: {seen:?}");
    Planned {
        calls: seen.calls as f64 / seen.requests as f64,
        used: seen.admitted as f64 / ideal as f64,
        over,
        allowed,
        alone: seen.alone,
    }
}
