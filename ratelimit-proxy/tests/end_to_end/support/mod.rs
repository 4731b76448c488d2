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

/// So many proxies as the README starts them: in front of one upstream, with these limits, over one store that
/// all of them have found.
pub async fn replicas(
    count: usize,
    origin: &origin::Origin,
    limits: &[&str],
    redis: &str,
) -> Vec<program::Program> {
    replicas_with(count, origin, limits, &["--redis", redis]).await
}

/// As `replicas`, with those options.
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
    for replica in &replicas {
        let count = Some(f64::from(u32::try_from(count).unwrap()));
        until("all replicas", async || program::metric(replica, "ratelimit_store_replicas").await == count)
            .await;
    }
    replicas
}
