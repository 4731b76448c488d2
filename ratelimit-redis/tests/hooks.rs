//! What a program around the store needs: settings that can be checked, calls that can be counted, last words.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ratelimit_core::algorithm::Op;
use ratelimit_core::store::Charge;
use ratelimit_core::{AsKey, KeyBuf, Limit, Store, StoreErrorKind};
use ratelimit_redis::{Call, RedisStore};
use redis_testkit::{Relay, Server};
use support::{ask, strict, take, until};

fn limit() -> Limit {
    Limit::new("l", "1000/day".parse().unwrap())
}

/// Rows 9 and 10: what is wrong is said without connecting, and without the password.
#[test]
fn settings_are_checked_and_secrets_kept() {
    assert!(RedisStore::builder("redis://:secret@nowhere.invalid:1").check().is_ok());
    let builder = RedisStore::builder("redis://:secret@a:port");
    let error = builder.check().unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
    assert!(!format!("{error} {error:?} {builder:?}").contains("secret"));
    for wrong in [
        RedisStore::builder("redis://a").prefix("{a}"),
        RedisStore::builder("redis://a").deadline(Duration::ZERO),
        RedisStore::builder("http://a"),
    ] {
        assert!(wrong.check().is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn every_call_is_told_of() {
    let server = Server::start();
    let relay = Relay::start(server.port()).await;
    let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
    let told = Arc::clone(&calls);
    let store = RedisStore::builder(relay.url())
        .deadline(Duration::from_millis(200))
        .observe(move |call| told.lock().unwrap().push(*call))
        .connect()
        .await
        .unwrap();
    for _ in 0..3 {
        take(&store, &limit(), "k").await.unwrap();
    }
    let requests: Vec<_> =
        calls.lock().unwrap().iter().map(|call| (call.requests, call.foreign, call.failed)).collect();
    assert_eq!(requests, [(1, 0, None); 3]);
    assert!(calls.lock().unwrap().iter().all(|call| !call.took.is_zero()));
    relay.drop_answers();
    take(&store, &limit(), "k").await.unwrap();
    until("the call to fail", async || {
        calls.lock().unwrap().last().is_some_and(|call| call.failed == Some(StoreErrorKind::Timeout))
    })
    .await;
}

#[tokio::test]
async fn a_flush_waits_for_what_was_posted() {
    let server = Server::start();
    let relay = Relay::start(server.port()).await;
    let store = strict(&relay.url()).await;
    let other = strict(&server.url()).await;
    store.flush().await.unwrap();
    relay.delay(Duration::from_millis(5));
    let mut key = KeyBuf::new();
    "k".encode(&mut key);
    let limit = limit();
    for _ in 0..200 {
        store.post(Charge { limit: &limit, key: key.key(), op: Op::Debit(1) });
    }
    store.flush().await.unwrap();
    let left = ask(&other, &limit, "k", Op::Peek(0)).await.unwrap();
    assert_eq!(left.outcomes[0].remaining(), 800);
    relay.cut();
    until("the outage", async || {
        let _ = take(&store, &limit, "k").await;
        !store.is_up()
    })
    .await;
    store.flush().await.expect("nothing waits, so nothing is lost");
}
