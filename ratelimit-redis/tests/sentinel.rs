//! A master that Sentinels name: rows 90, 97 and 102 of the fault catalogue.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use ratelimit_core::Limit;
use ratelimit_redis::{OnFailure, RedisStore};
use redis_testkit::Sentinels;
use support::{take, until};

async fn store_of(sentinels: &Sentinels) -> RedisStore {
    let mut urls = sentinels.urls().into_iter();
    let builder = RedisStore::builder(urls.next().expect("a Sentinel")).nodes(urls);
    let builder = builder.sentinel_master(sentinels.master_name()).on_failure(OnFailure::Error);
    builder.deadline(std::time::Duration::from_secs(1)).connect().await.expect("a store")
}

/// Row 102: all Sentinels are gone; the master they named last goes on, also over a new connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_102_without_sentinels_the_last_master_is_kept() {
    let mut sentinels = Sentinels::start();
    let store = store_of(&sentinels).await;
    let limit = Limit::new("l", "1000/day".parse().expect("a rate"));
    sentinels.kill_sentinels();
    take(&store, &limit, "k").await.expect("a decision");
    let master = sentinels.master();
    master.command(&["CLIENT", "KILL", "TYPE", "normal"]).expect("clients are gone");
    until("a decision", async || take(&store, &limit, "k").await.is_ok()).await;
}

/// Row 102: a master that stood still while another was made in its place is not used when it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_102_a_stale_master_is_left() {
    let sentinels = Sentinels::start();
    let store = store_of(&sentinels).await;
    let limit = Limit::new("l", "1000/day".parse().expect("a rate"));
    take(&store, &limit, "k").await.expect("a decision");
    sentinels.master().freeze();
    until("the new master's decision", async || take(&store, &limit, "k").await.is_ok()).await;
    let restarts = store.troubles().restarts;
    sentinels.master().thaw();
    until("the old master to follow", async || {
        let role = sentinels.master().command(&["INFO", "replication"]).expect("an answer");
        redis::from_redis_value::<String>(role).expect("a text").contains("role:slave")
    })
    .await;
    take(&store, &limit, "k").await.expect("a decision");
    assert_eq!(store.troubles().restarts, restarts, "the new master is still the one");
}

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
