//! What the end-to-end tests share: an upstream that records what it gets, a client that sends any bytes, and
//! a proxy between them. Nothing sleeps; whatever is waited for has [`PATIENCE`].

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

pub mod origin;
pub mod program;
pub mod proxy;
pub mod raw_client;
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
