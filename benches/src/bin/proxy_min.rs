//! The proxy's request path and nothing else: limits by client address in front of one upstream, one thread.
//!
//! ```text
//! proxy_min --upstream http://127.0.0.1:9000 --listen 127.0.0.1:8080 --limit '100/s by client.ip' …
//! ```
//!
//! It takes the words of the real command that `benches/proxy/compare.py` uses and ignores what it has no use
//! for (`--threads`, `--admin`), so that the same script measures either.

use std::net::SocketAddr;
use std::sync::Arc;

use ratelimit_core::{Limit, MemoryStore, SystemClock};
use ratelimit_proxy::policy::Policy;
use ratelimit_proxy::server::{Listeners, Server};
use ratelimit_proxy::telemetry::metrics::Metrics;
use ratelimit_proxy::{Answers, Shared, Timeouts};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut upstream = None;
    let mut listen: SocketAddr = ([127, 0, 0, 1], 0).into();
    let mut limits = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--upstream" => upstream = Some(value.parse()?),
            "--listen" => listen = value.parse()?,
            "--limit" => {
                let rate = value.split_once(" by ").map_or(&*value, |(rate, _)| rate).parse()?;
                limits.push(Limit::new(format!("limit-{}", limits.len() + 1), rate));
            }
            "--threads" | "--admin" => {}
            _ => return Err(format!("{word} is unknown").into()),
        }
    }
    let names: Vec<_> = limits.iter().map(Limit::name).collect();
    let metrics = Metrics::new(&names);
    let shared = Arc::new(Shared {
        policy: Policy::of(limits.clone()),
        store: MemoryStore::default(),
        upstream: upstream.ok_or("--upstream is missing")?,
        timeouts: Timeouts::default(),
        answers: Answers::default(),
        metrics,
        max_connections: 10_000,
        clock: SystemClock::default(),
    });
    let server = Server::start(&shared, Listeners::bind(&[listen], 1)?)?;
    println!("listening on {:?}", server.addresses());
    loop {
        std::thread::park();
    }
}
