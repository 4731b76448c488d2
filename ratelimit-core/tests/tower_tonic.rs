//! The layer under tonic, over real connections.
#![cfg(all(feature = "tower", feature = "tonic"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::time::Duration;

use http::Request;
use ratelimit_core::tower::{RateLimitLayer, key};
use ratelimit_core::{Limit, Limiter, ManualClock, MemoryStore, Store};
use tonic::Code;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

fn limiter() -> (Limiter<MemoryStore<ManualClock>>, ManualClock) {
    let clock = ManualClock::default();
    (Limiter::new(MemoryStore::with_clock(clock.clone())), clock)
}

/// The health service behind a layer, and a client of it.
async fn health<S: Store>(layer: RateLimitLayer<S, Body>) -> HealthClient<Channel> {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let (_reporter, service) = tonic_health::server::health_reporter();
    tokio::spawn(Server::builder().layer(layer).add_service(service).serve_with_incoming(incoming));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    HealthClient::new(endpoint.connect().await.unwrap())
}

fn question() -> HealthCheckRequest {
    HealthCheckRequest { service: String::new() }
}

#[tokio::test]
async fn a_denial_is_resource_exhausted_with_its_reason_and_wait() {
    let (limiter, clock) = limiter();
    let per_peer = Limit::new("per-peer", "2/min".parse().unwrap());
    let mut client = health(RateLimitLayer::new(limiter, per_peer).key(key::peer_ip)).await;
    for left in [1, 0] {
        let response = client.check(question()).await.unwrap();
        let told = response.metadata().get("ratelimit").unwrap().to_str().unwrap();
        assert!(told.starts_with(&format!(r#""per-peer";r={left}"#)), "{told}");
    }
    let status = client.check(question()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "rate limit per-peer exceeded, retry after 30 s");
    assert_eq!(status.metadata().get("retry-after").unwrap(), "30");
    clock.advance(Duration::from_secs(30));
    client.check(question()).await.unwrap();
}

#[tokio::test]
async fn a_streaming_call_holds_its_permit_until_it_ends() {
    let (limiter, _) = limiter();
    let at_once = Limit::concurrency("at-once", 1);
    let layer = RateLimitLayer::new(limiter.clone(), at_once.clone())
        .key(|req: &Request<_>| req.uri().path().to_owned())
        .skip(|req| !req.uri().path().ends_with("/Watch"));
    let mut client = health(layer).await;
    let mut watching = client.watch(question()).await.unwrap().into_inner();
    watching.message().await.unwrap().expect("the state at the start");
    assert_eq!(client.watch(question()).await.unwrap_err().code(), Code::ResourceExhausted);
    client.check(question()).await.unwrap();
    drop(watching);
    // The server learns by a reset of the stream, in its own time.
    while limiter.peek(&at_once, "/grpc.health.v1.Health/Watch").await.unwrap().remaining() == 0 {
        client.check(question()).await.unwrap();
    }
    client.watch(question()).await.unwrap();
}
