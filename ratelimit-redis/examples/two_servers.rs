//! Two axum servers share one limit: whichever a client asks, it is counted once.
//!
//! `cargo run -p ratelimit-redis --example two_servers -- redis://127.0.0.1:6379`; without an address it starts a
//! `redis-server` of its own.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::Request;
use axum::routing::get;
use ratelimit_core::tower::RateLimitLayer;
use ratelimit_core::{Limit, Limiter};
use ratelimit_redis::RedisStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server as it would run on a machine of its own: all it shares with others is the store's address.
async fn serve(store: &str) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    // `.leased()` on the store would decide busy keys here, with the same bound and few calls.
    let limiter = Limiter::new(RedisStore::connect(store).await?);
    let per_key = Limit::new("per-key", "5/min".parse()?);
    let limit = RateLimitLayer::new(limiter, per_key)
        .key(|request: &Request| request.headers().get("x-api-key").map(|key| key.as_bytes().to_vec()));
    let app = Router::new().route("/", get(async || "hello\n")).layer(limit);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(axum::serve(listener, app).into_future());
    Ok(address)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let own = std::env::args().len() < 2;
    let server = own.then(redis_testkit::Server::start);
    let given = std::env::args().nth(1).unwrap_or_default();
    let store = server.as_ref().map_or(given, redis_testkit::Server::url);

    let servers = [serve(&store).await?, serve(&store).await?];
    // Another key each time the example runs, as the store may remember the last one.
    let key = std::process::id().to_string();
    for (attempt, server) in (1..=6).zip(servers.into_iter().cycle()) {
        let answer = send(server, &key).await?;
        println!("attempt {attempt}, at {server}: {}", answer.lines().next().unwrap_or_default());
        assert_eq!(answer.starts_with("HTTP/1.1 200"), attempt <= 5, "{answer}");
    }
    Ok(())
}

async fn send(to: SocketAddr, key: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    let request =
        format!("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-api-key: {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
