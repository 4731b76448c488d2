//! Traffic: ten patterns that a leased limit meets.

use fastrand::Rng;

use crate::world::{Arrival, MILLI, Quota, SECOND};

pub struct Scenario {
    pub name: &'static str,
    pub quota: Quota,
    pub replicas: usize,
    pub arrivals: Vec<Arrival>,
}

/// Requests that come independently, so many a second.
pub fn poisson(
    seed: u64,
    rate: f64,
    seconds: f64,
    mut pick: impl FnMut(&mut Rng) -> (usize, u32),
) -> Vec<Arrival> {
    let mut rng = Rng::with_seed(seed);
    let (mut time, mut arrivals) = (0.0, Vec::new());
    loop {
        time += -(1.0 - rng.f64()).ln() / rate;
        if time > seconds {
            return arrivals;
        }
        let (replica, key) = pick(&mut rng);
        arrivals.push(Arrival { at: (time * 1e9) as u64, replica, key, units: 1 });
    }
}

pub fn anywhere(replicas: usize) -> impl FnMut(&mut Rng) -> (usize, u32) {
    move |rng| (rng.usize(0..replicas), 0)
}

/// A trickle that keeps leases alive, then a burst; again and again. `burst` says where its requests come.
fn bursts(
    seed: u64,
    trickle: usize,
    burst: usize,
    mut place: impl FnMut(&mut Rng, usize) -> usize,
) -> Vec<Arrival> {
    let mut rng = Rng::with_seed(seed);
    let mut arrivals = Vec::new();
    for cycle in 0..12 {
        let start = cycle as u64 * 2500 * MILLI;
        for _ in 0..trickle {
            let at = start + rng.u64(0..1200 * MILLI);
            arrivals.push(Arrival { at, replica: rng.usize(0..4), key: 0, units: 1 });
        }
        for _ in 0..burst {
            let at = start + 1200 * MILLI + rng.u64(0..20 * MILLI);
            arrivals.push(Arrival { at, replica: place(&mut rng, cycle), key: 0, units: 1 });
        }
    }
    arrivals.sort_by_key(|arrival| arrival.at);
    arrivals
}

pub const COUNT: usize = 10;

/// Scenario number `number`, from 1.
pub fn scenario(number: usize, seed: u64) -> Scenario {
    let second = |rate, replicas| (Quota::per_second(rate, u32::try_from(rate).unwrap()), replicas);
    let (name, (quota, replicas), arrivals) = match number {
        1 => ("one key, 0.8 r", second(1000, 4), poisson(seed, 800.0, 30.0, anywhere(4))),
        2 => ("one key, 10 r", second(1000, 4), poisson(seed, 10_000.0, 12.0, anywhere(4))),
        3 => {
            let skewed = |rng: &mut Rng| (if rng.f64() < 0.9 { 0 } else { rng.usize(0..4) }, 0);
            ("one key, 0.95 r, 90 % on one", second(1000, 4), poisson(seed, 950.0, 30.0, skewed))
        }
        4 => ("one key, 1.2 r, 16 replicas", second(1000, 16), poisson(seed, 1200.0, 30.0, anywhere(16))),
        5 => ("one key, 20 000/s, 0.9 r", second(20_000, 4), poisson(seed, 18_000.0, 8.0, anywhere(4))),
        6 => {
            let quota = (Quota { interval: 600_000, burst: 100 }, 4);
            ("100/min, 1.5 r", quota, poisson(seed, 2.5, 1200.0, anywhere(4)))
        }
        7 => {
            let mut total = 0.0;
            let upto: Vec<f64> = (1..=2000)
                .map(|rank| {
                    total += f64::from(rank).powf(-1.1);
                    total
                })
                .collect();
            let zipf = move |rng: &mut Rng| {
                let place = rng.f64() * total;
                (rng.usize(0..4), u32::try_from(upto.partition_point(|&sum| sum < place)).unwrap())
            };
            (
                "Zipf 1.1, 2000 keys, 100/s",
                (Quota::per_second(100, 200), 4),
                poisson(seed, 20_000.0, 8.0, zipf),
            )
        }
        8 => {
            let arrivals = bursts(seed, 60, 2500, |rng, _| rng.usize(0..4));
            ("trickle, burst of 2.5 B on all", second(1000, 4), arrivals)
        }
        9 => ("trickle, burst of B on one", second(1000, 4), bursts(seed, 40, 1000, |_, cycle| cycle % 4)),
        10 => {
            let quota = (Quota { interval: 8_640_000, burst: 10_000 }, 4);
            ("10 000/day, 50/s", quota, poisson(seed, 50.0, 260.0, anywhere(4)))
        }
        _ => unreachable!("ten scenarios"),
    };
    Scenario { name, quota, replicas, arrivals }
}

/// A steady demand of `demand` a second on a key of `rate` a second.
pub fn steady(seed: u64, rate: u64, demand: f64, replicas: usize, seconds: f64) -> Scenario {
    let quota = Quota::per_second(rate, u32::try_from(rate).unwrap());
    Scenario { name: "steady", quota, replicas, arrivals: poisson(seed, demand, seconds, anywhere(replicas)) }
}

/// Traffic for runs with faults: greedy, of different sizes, on a few keys, with lulls.
pub fn rough(seed: u64, quota: Quota, replicas: usize, seconds: u64) -> Vec<Arrival> {
    let mut rng = Rng::with_seed(seed ^ 0x5eed);
    let mean = quota.nanos() * 2 / 3;
    let (mut at, mut arrivals) = (0, Vec::new());
    while at < seconds * SECOND {
        at += match rng.u32(0..400) {
            0 => rng.u64(0..SECOND),
            1..40 => 0,
            _ => rng.u64(0..2 * mean),
        };
        let units = if rng.u32(0..8) == 0 { rng.u32(1..=5) } else { 1 };
        arrivals.push(Arrival { at, replica: rng.usize(0..replicas), key: rng.u32(0..2), units });
    }
    arrivals
}
