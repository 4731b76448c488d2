//! criterion's view of the same work: groups `decision/…`, in each our limiter and governor.

use benches::{Contender, Governor, Ours, run, warm_up};
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};

fn one<C: Contender>(group: &mut BenchmarkGroup<'_, WallTime>, keys: u64, threads: usize, denying: bool) {
    let limiter = C::new(denying);
    warm_up(&limiter, keys);
    group.bench_function(C::NAME, |bencher| {
        bencher.iter_custom(|iterations| run(&limiter, keys, threads, iterations));
    });
}

fn decision(criterion: &mut Criterion) {
    for (name, keys, threads, denying) in [
        ("1 key", 1, 1, false),
        ("10k keys", 10_000, 1, false),
        ("1M keys", 1_000_000, 1, false),
        ("1 key, 2 threads", 1, 2, false),
        ("1 key denied, 2 threads", 1, 2, true),
        ("1M keys, 2 threads", 1_000_000, 2, false),
    ] {
        let mut group = criterion.benchmark_group(format!("decision/{name}"));
        one::<Ours>(&mut group, keys, threads, denying);
        one::<Governor>(&mut group, keys, threads, denying);
        group.finish();
    }
}

criterion_group!(benches, decision);
criterion_main!(benches);
