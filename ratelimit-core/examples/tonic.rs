//! Limits in front of gRPC: a denied call ends with `RESOURCE_EXHAUSTED`, and an open stream holds a permit.
//!
//! The service is tonic's own health service, so that nothing has to be generated.
//! `cargo run -p ratelimit-core --features tonic --example tonic`

use http::Request;
use ratelimit_core::tower::{RateLimitLayer, key};
use ratelimit_core::{Limit, Limiter, MemoryStore};
use tonic::Code;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let layer =
        RateLimitLayer::new(Limiter::new(MemoryStore::default()), Limit::new("calls", "4/min".parse()?))
            .key(key::peer_ip)
            // One open stream for each method and peer; both limits are charged, or none.
            .and(Limit::concurrency("streams", 1), |req: &Request<_>| {
                key::peer_ip(req).map(|peer| (peer, req.uri().path().to_owned()))
            });

    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let address = incoming.local_addr()?;
    let (_reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(Server::builder().layer(layer).add_service(health).serve_with_incoming(incoming));

    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let mut client = HealthClient::new(endpoint.connect().await?);
    let question = || HealthCheckRequest { service: String::new() };

    let mut watching = client.watch(question()).await?.into_inner();
    println!("watching: {:?}", watching.message().await?.map(|state| state.status()));
    let second = client.watch(question()).await.err().ok_or("a second stream was let in")?;
    println!("a second stream: {}", second.message());
    assert_eq!(second.code(), Code::ResourceExhausted);

    // The refused stream was charged to neither limit, so three of four calls are left.
    for left in [2, 1, 0] {
        let response = client.check(question()).await?;
        println!("call: {left} left");
        assert!(response.metadata().contains_key("ratelimit"));
    }
    let denied = client.check(question()).await.err().ok_or("a fifth call was let in")?;
    println!("denied: {}, retry-after {:?}", denied.message(), denied.metadata().get("retry-after"));
    assert_eq!(denied.code(), Code::ResourceExhausted);
    assert!(denied.metadata().contains_key("retry-after"));
    Ok(())
}
