//! What the tests of a real store have in common.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    reason = "tests, and not every one uses all of it"
)]

use std::time::Duration;

use ratelimit_core::algorithm::Op;
use ratelimit_core::store::{Charge, Origin, Verdict};
use ratelimit_core::{AsKey, KeyBuf, Limit, Store, StoreError, StoreErrorKind};
use ratelimit_redis::{OnFailure, RedisStore};

/// A store that says so when it can't decide, and that a busy machine does not keep from it.
pub async fn strict(url: &str) -> RedisStore {
    let builder = RedisStore::builder(url).on_failure(OnFailure::Error).deadline(Duration::from_secs(1));
    builder.connect().await.expect("a store")
}

/// Does `op` to the key.
pub async fn ask(store: &RedisStore, limit: &Limit, key: impl AsKey, op: Op) -> Result<Verdict, StoreError> {
    let mut buffer = KeyBuf::new();
    key.encode(&mut buffer);
    let charges = [Charge { limit, key: buffer.key(), op }];
    match store.try_decide(&charges) {
        Some(verdict) => Ok(verdict),
        None => store.decide(&charges).await,
    }
}

pub async fn take(store: &RedisStore, limit: &Limit, key: impl AsKey) -> Result<Verdict, StoreError> {
    ask(store, limit, key, Op::Take(1)).await
}

/// The kind of the error, which there must be.
pub fn kind(answer: Result<Verdict, StoreError>) -> StoreErrorKind {
    answer.expect_err("the store should not be able to answer").kind()
}

/// Waits until it holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited for {what} in vain"));
}

/// Waits until the store itself decides.
pub async fn until_decided(store: &RedisStore, limit: &Limit) {
    until("a decision of the store", async || {
        take(store, limit, "until").await.is_ok_and(|verdict| verdict.origin == Origin::Store)
    })
    .await;
}
