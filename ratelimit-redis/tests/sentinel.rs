//! A master that Sentinels name: rows 90, 97 and 102 of the fault catalogue.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use ratelimit_core::Limit;
use ratelimit_redis::{OnFailure, RedisStore};
use redis_testkit::Sentinels;
use support::{take, until};

/// The master dies; the store finds the one that was made in its place by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_found() {
    let mut sentinels = Sentinels::start();
    let mut urls = sentinels.urls().into_iter();
    let builder = RedisStore::builder(urls.next().expect("a Sentinel")).nodes(urls);
    let builder = builder
        .sentinel_master(sentinels.master_name())
        .on_failure(OnFailure::Error)
        .deadline(std::time::Duration::from_secs(1));
    let store = builder.connect().await.expect("a store");
    let limit = Limit::new("l", "1000/day".parse().expect("a rate"));
    take(&store, &limit, "k").await.expect("a decision");
    sentinels.kill_master();
    assert!(take(&store, &limit, "k").await.is_err());
    until("the new master's decision", async || take(&store, &limit, "k").await.is_ok()).await;
}
