//! What it costs to find out which limits a request meets, by which key: `Policy::select`, in a request that a
//! browser could have sent.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ratelimit_core::KeyBuf;
use ratelimit_proxy::config::load_str;
use ratelimit_proxy::facts::Facts;
use ratelimit_proxy::policy::Policy;

const TWO: &str = "
  - {name: plan, match: {path: '/v1/{resource}/**'}, key: [header.x-api-key, path.resource], rate: 100/s}
  - {name: path, key: [header.x-api-key, path], rate: 1000/s}
";

const OVERRIDES: &str = "
  - name: plan
    match: {path: '/v1/{resource}/**', methods: [GET, POST]}
    key: [header.x-api-key, path.resource]
    rate: 100/s
    overrides:
";

fn policy(limits: &str) -> Policy {
    let text = format!("upstream: http://127.0.0.1:1\nlimits:\n{limits}");
    match load_str(&text, "bench.yaml", &|_| None, Path::new("")) {
        Ok(loaded) => Policy::of(&loaded.config),
        Err(faults) => panic!("{faults:?}"),
    }
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "api.example.com"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("accept-language", "en-GB,en;q=0.5"),
        ("x-api-key", "k-0123456789abcdef"),
        ("cookie", "theme=dark; sid=0123456789abcdef"),
        ("referer", "https://example.com/"),
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}

fn select(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("policy");
    let mut overrides = OVERRIDES.to_owned();
    for number in 0..5000 {
        overrides.push_str(&format!("      - {{key: [key-{number}, '*'], rate: 1000/s}}\n"));
    }
    let by_client = "  - {name: client, key: client.ip, rate: 100/s}\n";
    for (name, limits) in
        [("by client.ip", by_client), ("two limits by header and path", TWO), ("5000 overrides", &overrides)]
    {
        let (policy, headers, mut keys) = (policy(limits), headers(), KeyBuf::new());
        let facts = Facts {
            method: &Method::GET,
            host: "api.example.com",
            path: "/v1/users/7",
            query: "page=2",
            headers: &headers,
            claims: None,
            descriptor: None,
            tls_client: None,
            client: [192, 0, 2, 7].into(),
        };
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
