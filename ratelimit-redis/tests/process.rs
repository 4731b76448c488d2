//! A replica's process stands still and goes on: row 111 of the fault catalogue.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::io::BufRead;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ratelimit_core::Limit;
use ratelimit_core::algorithm::Op;
use ratelimit_redis::{OnFailure, RedisStore};
use redis_testkit::Server;
use support::{ask, take, until};

const URL: &str = "RATELIMIT_TEST_REPLICA_OF";

fn limit() -> Limit {
    Limit::concurrency("permits", 3)
}

async fn short(url: &str) -> RedisStore {
    let builder = RedisStore::builder(url).permit_expiry(Duration::from_secs(1));
    let builder = builder.deadline(Duration::from_secs(1)).on_failure(OnFailure::Error);
    builder.connect().await.expect("a store")
}

/// A replica in a process of its own, which ends with the test.
struct Replica(Child);

impl Replica {
    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.0.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {signal} failed");
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Holds three permits until it is killed.
#[tokio::test]
#[ignore = "the other process of the test below"]
async fn replica() {
    #[expect(
        clippy::disallowed_methods,
        reason = "how one process of a test tells another where the store is"
    )]
    let Ok(url) = std::env::var(URL) else { return };
    let store = short(&url).await;
    for _ in 0..3 {
        assert!(take(&store, &limit(), "k").await.expect("a decision").admitted);
    }
    println!("\nholds");
    std::future::pending().await
}

/// Row 111: the permits of a process that stands still lapse, and are held again when it goes on.
#[tokio::test]
async fn row_111_a_frozen_replica_loses_its_permits_and_says_them_again() {
    let server = Server::start();
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "replica", "--nocapture"])
        .env(URL, server.url())
        .stdout(Stdio::piped())
        .spawn();
    let mut replica = Replica(child.expect("another process"));
    let lines = std::io::BufReader::new(replica.0.stdout.take().expect("its output")).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "holds"));
    let store = short(&server.url()).await;
    assert!(!take(&store, &limit(), "k").await.expect("a decision").admitted);
    replica.signal("-STOP");
    until("what the frozen one held", async || {
        take(&store, &limit(), "k").await.expect("a decision").admitted
    })
    .await;
    replica.signal("-CONT");
    // It holds three and we hold one: no more than it held was admitted beyond the limit, and nothing is free.
    until("its word", async || {
        let seen = ask(&store, &limit(), "k", Op::Peek(1)).await.expect("a decision");
        !seen.admitted && !take(&store, &limit(), "k").await.expect("a decision").admitted
    })
    .await;
    drop(replica);
    until("the dead one's permits", async || take(&store, &limit(), "k").await.expect("a decision").admitted)
        .await;
}
