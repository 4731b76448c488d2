//! What it costs to find out which limits a request meets, by which key: `Policy::select`, in a request that a
//! browser could have sent.

use std::hint::black_box;

use benches::request::{BY_CLIENT, TWO, facts, headers, policy};
use criterion::{Criterion, criterion_group, criterion_main};
use ratelimit_core::KeyBuf;

const OVERRIDES: &str = "
  - name: plan
    match: {path: '/v1/{resource}/**', methods: [GET, POST]}
    key: [header.x-api-key, path.resource]
    rate: 100/s
    overrides:
";

fn select(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("policy");
    let mut overrides = OVERRIDES.to_owned();
    for number in 0..5000 {
        overrides.push_str(&format!("      - {{key: [key-{number}, '*'], rate: 1000/s}}\n"));
    }
    for (name, limits) in
        [("by client.ip", BY_CLIENT), ("two limits by header and path", TWO), ("5000 overrides", &overrides)]
    {
        let (policy, headers, mut keys) = (policy(limits), headers(), KeyBuf::new());
        let facts = facts(&headers);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                keys.clear();
                policy.select(black_box(&facts), &mut keys).map(|selection| selection.hits.len()).ok()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, select);
criterion_main!(benches);
