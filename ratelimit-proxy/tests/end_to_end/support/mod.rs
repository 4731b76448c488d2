//! What the end-to-end tests share: an upstream that records what it gets, a client that sends any bytes, and
//! a proxy between them. Nothing sleeps; whatever is waited for has [`PATIENCE`].

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

pub mod browser;
pub mod certs;
pub mod http2;
pub mod name_server;
pub mod origin;
pub mod program;
pub mod proxy;
pub mod raw_client;
pub mod secure_origin;
pub mod tokens;

use std::time::Duration;

/// How long a test waits for what should come at once. Long, because machines that run tests are busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What `future` gives, or a failed test.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Waits until it holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// So many proxies in front of one upstream, with these limits, over one store that all of them have found. They
/// wait for it as long as a test does: with the usual 50 ms a machine that stands still for a moment makes decisions
/// local, and each that the store charged all the same is one less that reaches the upstream.
pub async fn replicas(
    count: usize,
    origin: &origin::Origin,
    limits: &[&str],
    redis: &str,
) -> Vec<program::Program> {
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let limits: Vec<String> = limits.iter().map(|limit| format!("'{limit}'")).collect();
    let (upstream, limits, patience) = (origin.address, limits.join(", "), PATIENCE.as_secs());
    let store = format!("{{redis: '{redis}', deadline: {patience}s}}");
    let text = format!("upstream: http://{upstream}\nlimits: [{limits}]\nstore: {store}\n");
    std::fs::write(file.path(), text).unwrap();
    let mut replicas = Vec::new();
    for _ in 0..count {
        replicas.push(program::Program::run(&["--config", file.path().to_str().unwrap()]).await);
    }
    all_known(replicas).await
}

/// So many as the README starts them, with those options, over one store that all of them have found.
pub async fn replicas_with(
    count: usize,
    origin: &origin::Origin,
    limits: &[&str],
    options: &[&str],
) -> Vec<program::Program> {
    let mut replicas = Vec::new();
    for _ in 0..count {
        replicas.push(program::Program::start_with(origin.address, limits, options).await);
    }
    all_known(replicas).await
}

/// Those proxies, once each knows of all others.
async fn all_known(replicas: Vec<program::Program>) -> Vec<program::Program> {
    let count = Some(f64::from(u32::try_from(replicas.len()).unwrap()));
    for replica in &replicas {
        until("all replicas", async || program::metric(replica, "ratelimit_store_replicas").await == count)
            .await;
    }
    replicas
}
