//! The lease protocol, simulated: replicas, a network and a store in one thread, from a seed. Whatever happens,
//! no key is admitted more than its limit's bound in any interval; and the calls that leases are there to save
//! are saved. A failing run names its seed.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures"
)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
#![allow(unreachable_pub, reason = "modules of one test")]

mod judge;
mod plan;
mod plots;
mod scenarios;
mod share;
mod world;

use ratelimit_core::Nanos;
use ratelimit_core::algorithm::{Gcra, Op};
use ratelimit_redis::lease::{Policy, what_may_lie_elsewhere};
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
    assert_eq!(
        all, seen.requests,
        "{}, seed {seed}: every request is answered once: {seen:?}",
        scenario.name
    );
    let bound = what_may_lie_elsewhere(&scenario.quota.limit(), scenario.replicas as u32, &Policy::default())
        .unwrap();
    assert!(
        seen.elsewhere <= bound.units,
        "{}, seed {seed}: {} lay with others, {} at most",
        scenario.name,
        seen.elsewhere,
        bound.units
    );
    let figures = figures(seen, scenario.quota, &scenario.arrivals);
    println!(
        "{:32} seed {seed:3}  calls {:.4}  used {:.3}  held {:4.1} %  elsewhere {} of {}  {:?}",
        scenario.name,
        figures.calls,
        figures.used,
        100.0 * figures.held,
        seen.elsewhere,
        bound.units,
        seen.kinds,
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

/// Calls a request, quota used, and what a burst finds: what leases are for.
#[test]
fn calls_are_few_and_the_quota_is_used() {
    for seed in 0..3 {
        let at_5000 = run(&steady(seed, 5000, 4500.0, 4, 20.0), seed);
        assert!(at_5000.calls <= 0.02, "seed {seed}: {:.4} calls a request at 5000/s", at_5000.calls);
        assert!(at_5000.used >= 0.97, "seed {seed}: {:.3} of the quota used at 5000/s", at_5000.used);
        let at_1000 = run(&steady(seed, 1000, 950.0, 4, 20.0), seed);
        assert!(at_1000.calls <= 0.05, "seed {seed}: {:.4} calls a request at 1000/s", at_1000.calls);
        assert!(at_1000.used >= 0.97, "seed {seed}: {:.3} of the quota used at 1000/s", at_1000.used);
        for rate in [1000, 5000] {
            let above = run(&steady(seed, rate, 10.0 * rate as f64, 4, 8.0), seed);
            assert!(
                above.calls <= 0.02,
                "seed {seed}: {:.4} calls a request at 10 times {rate}/s",
                above.calls
            );
            assert!(above.used >= 0.97, "seed {seed}: {:.3} of {rate}/s used when overrun", above.used);
        }
        let bursts = scenario(9, seed);
        let burst = run(&bursts, seed);
        assert!(burst.used >= 0.85, "seed {seed}: a burst on one replica found {:.3}", burst.used);
    }
}

/// A burst on one replica while the others hold leases: it finds most of the bucket at once.
#[test]
fn a_burst_on_one_replica_finds_the_bucket() {
    for seed in 0..3 {
        let quota = Quota::per_second(1000, 1000);
        let mut arrivals = scenarios::poisson(seed, 200.0, 3.0, scenarios::anywhere(4));
        let burst =
            (0..3000).map(|n| Arrival { at: 3 * SECOND + n * 10 * MICRO, replica: 1, key: 0, units: 1 });
        arrivals.extend(burst);
        let world = World::new(Setup::new(quota, 4, seed)).run(&arrivals);
        let judge = &world.judges[&0];
        assert_eq!(judge.excess(quota.nanos(), quota.burst), 0, "seed {seed}");
        // The bucket, and what comes back meanwhile.
        let found = judge.since(3 * SECOND).units();
        println!("a burst of 3 B within 30 ms, seed {seed}: found {found} of 1000 + 30");
        assert!(found >= 850, "seed {seed}: a burst found {found} of 1000");
    }
}

/// Loss, repetition, delay, crashes, cut connections, sleeping machines, clocks that drift, charges that are undone:
/// nothing is added.
#[test]
fn faults_never_add_anything() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let quota = [
            Quota::per_second(1000, 50),
            Quota::per_second(200, 200),
            Quota { interval: 600_000, burst: 20 },
        ];
        let quota = quota[seed as usize % 3];
        let replicas = [1, 2, 3, 5, 16][rng.usize(0..5)];
        let seconds = (quota.refill() * 6 / SECOND).clamp(4, 120);
        let mut setup = Setup::new(quota, replicas, seed);
        setup.network = Network {
            delay: (50 * MICRO, rng.u64(1..20) * MILLI),
            lost: rng.u32(0..150),
            doubled: rng.u32(0..300),
            late: rng.u32(0..200),
        };
        setup.undone = rng.u32(0..200);
        for _ in 0..8 {
            let (at, number) = (rng.u64(0..seconds * SECOND), rng.usize(0..replicas));
            let length = rng.u64(0..2 * quota.refill());
            let fault = match rng.u32(0..3) {
                0 => Fault::Kill(number),
                1 => Fault::Suspend(number, length),
                _ => Fault::CutOff(number, length),
            };
            setup.faults.push((at, fault));
        }
        let faults = setup.faults.clone();
        // Half of the runs ask for so much that whatever can be had is had at once. With less, what lossy calls leave unused
        // hides what is spent too much.
        let asked = Quota { interval: quota.interval / [1, 4][seed as usize % 2], ..quota };
        let world = World::new(setup).run(&rough(seed, asked, replicas, seconds));
        for (key, judge) in &world.judges {
            let excess = judge.excess(quota.nanos(), quota.burst);
            assert_eq!(excess, 0, "seed {seed}, key {key}: over by {excess} ns; {quota:?} {faults:?}");
        }
        assert!(world.seen.admitted > u64::from(quota.burst), "seed {seed}: {:?}", world.seen);
    }
}

/// What a store's own faults add to a bucket without leases they add here: a burst for each time it forgets, and
/// for a clock set forwards what it skips, at most a burst. A clock set back adds nothing.
#[test]
fn a_stores_own_faults_add_what_they_always_do() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let quota = Quota::per_second(1000, 100);
        let seconds = 6;
        let mut setup = Setup::new(quota, 1 + seed as usize % 5, seed);
        let kind = seed % 3;
        let mut allowed = 0_i128;
        for _ in 0..3 {
            let fault = match kind {
                0 => Fault::Lose,
                1 => Fault::Step(rng.i64(1..1_000_000)),
                _ => Fault::Step(-rng.i64(1..3_000_000)),
            };
            allowed += match fault {
                Fault::Lose => i128::from(quota.refill()),
                Fault::Step(micros) if micros > 0 => i128::from(micros * 1000).min(quota.refill().into()),
                _ => 0,
            };
            // Apart, so that no reply on its way is judged by another clock than it was given under.
            setup.faults.push((rng.u64(0..seconds * SECOND), fault));
        }
        setup.network.delay = (20 * MICRO, 60 * MICRO);
        let faults = setup.faults.clone();
        let world = World::new(setup).run(&rough(seed, quota, 1 + seed as usize % 5, seconds));
        for (key, judge) in &world.judges {
            let excess = judge.excess(quota.nanos(), quota.burst);
            assert!(
                excess <= allowed,
                "seed {seed}, key {key}: over by {excess} ns of {allowed}; {faults:?}"
            );
        }
    }
}

/// A quota that changes, learnt by each replica at another time: never beyond the larger one; and once all have
/// learnt it and the bucket has filled, the smaller one holds.
#[test]
fn a_changed_quota_is_kept_by_all() {
    for seed in 0..20 {
        let (large, small) = (Quota::per_second(1000, 200), Quota::per_second(500, 50));
        let (from, to) = if seed % 2 == 0 { (large, small) } else { (small, large) };
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut setup = Setup::new(from, 4, seed);
        for replica in 0..4 {
            setup.faults.push((2 * SECOND + rng.u64(0..SECOND), Fault::Requote(replica, to)));
        }
        let world = World::new(setup).run(&rough(seed, large, 4, 8));
        for (key, judge) in &world.judges {
            assert_eq!(
                judge.excess(large.nanos(), large.burst),
                0,
                "seed {seed}, key {key}: over the larger"
            );
            if to == small {
                let late = judge.since(3 * SECOND + large.refill());
                assert_eq!(
                    late.excess(small.nanos(), small.burst),
                    0,
                    "seed {seed}, key {key}: over the new one"
                );
            }
        }
    }
}

/// The judge and the faults are real: replicas that spend slots after their time, or that don't notice that they
/// slept, are found out.
#[test]
fn what_is_broken_is_found() {
    let broken = |break_it: fn(&mut Setup)| {
        (0..40).any(|seed| {
            let quota = Quota::per_second(1000, 100);
            let mut setup = Setup::new(quota, 4, seed);
            let mut rng = fastrand::Rng::with_seed(seed);
            for _ in 0..20 {
                let (at, number) = (rng.u64(0..5 * SECOND), rng.usize(0..4));
                setup.faults.push((at, Fault::Suspend(number, rng.u64(0..200 * MILLI))));
            }
            break_it(&mut setup);
            let world = World::new(setup).run(&rough(seed, Quota::per_second(4000, 100), 4, 5));
            world.judges.values().any(|judge| judge.excess(quota.nanos(), quota.burst) > 0)
        })
    };
    assert!(!broken(|_| {}), "nothing is broken, and something is found");
    assert!(broken(|setup| setup.notices_sleep = false), "sleep goes unnoticed, and so does that");
    assert!(broken(|setup| setup.policy = setup.policy.spending_after_its_time()), "slots are spent late");
}

/// Past what one machine can run: nothing is added without faults, and no more than the README's row when half of the
/// replicas decide alone. `SEEDS` says how many runs there are, `SEED` which is the first, to run one that failed again.
#[test]
fn many_replicas_keep_the_bound_also_when_half_are_cut_off() {
    #[expect(clippy::disallowed_methods, reason = "which runs to make, of a test")]
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (first, count): (u64, u64) = (number("SEED", 0), number("SEEDS", 1));
    for seed in first..first + count {
        for replicas in [10, 100] {
            for load in plan::LOADS {
                let planned = plan::run(load, replicas, 12.0, 6, seed);
                println!("{load:?}, {replicas} replicas, seed {seed}: {planned:?}");
                assert_eq!(planned.alone > 0, load == plan::Load::Parted, "{load:?}: {planned:?}");
                assert!(planned.used >= 0.7, "{load:?}, {replicas} replicas, seed {seed}: {planned:?}");
            }
        }
    }
}
