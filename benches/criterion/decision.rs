//! criterion's view of the same work: groups `decision/…`, in each our limiter and governor.

use benches::{Contender, Governor, Ours, run, warm_up};
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};

fn one<C: Contender>(group: &mut BenchmarkGroup<'_, WallTime>, case: &Case) {
    let limiter = C::new(case.limits, case.denying);
    warm_up(&limiter, case.keys);
    group.bench_function(C::NAME, |bencher| {
        bencher.iter_custom(|iterations| run(&limiter, case.keys, case.threads, iterations));
    });
}

struct Case {
    name: &'static str,
    keys: u64,
    threads: usize,
    limits: usize,
    denying: bool,
}

const fn case(name: &'static str, keys: u64, threads: usize) -> Case {
    Case { name, keys, threads, limits: 1, denying: false }
}

const CASES: [Case; 10] = [
    case("1 key", 1, 1),
    case("10k keys", 10_000, 1),
    case("1M keys", 1_000_000, 1),
    case("1 key, 2 threads", 1, 2),
    Case { denying: true, ..case("1 key denied", 1, 1) },
    Case { denying: true, ..case("1 key denied, 2 threads", 1, 2) },
    case("1M keys, 2 threads", 1_000_000, 2),
    Case { limits: 2, ..case("10k keys, 2 limits", 10_000, 1) },
    Case { limits: 8, ..case("10k keys, 8 limits", 10_000, 1) },
    Case { limits: 32, ..case("10k keys, 32 limits", 10_000, 1) },
];

fn decision(criterion: &mut Criterion) {
    for case in &CASES {
        let mut group = criterion.benchmark_group(format!("decision/{}", case.name));
        one::<Ours>(&mut group, case);
        one::<Governor>(&mut group, case);
        group.finish();
    }
}

criterion_group!(benches, decision);
criterion_main!(benches);
