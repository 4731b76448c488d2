//! Limits in an axum application: one for every client, a stricter one for log-ins.
//!
//! `cargo run -p ratelimit-core --features axum --example axum`

use std::net::SocketAddr;

use axum::Router;
use axum::routing::{get, post};
use ratelimit_core::tower::{RateLimitLayer, key};
use ratelimit_core::{Algorithm, Limit, Limiter, MemoryStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let limiter = Limiter::new(MemoryStore::default());
    let per_client = Limit::new("per-client", "100/s".parse()?).burst(200);
    let login = Limit::new("login", "3/min".parse()?).algorithm(Algorithm::SlidingWindow);

    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route(
            "/login",
            post(async || "welcome\n").layer(RateLimitLayer::new(limiter.clone(), login).key(key::peer_ip)),
        )
        .layer(RateLimitLayer::new(limiter, per_client).key(key::peer_ip));

    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}");
    // `key::peer_ip` needs the connect info.
    let server = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>());
    tokio::spawn(server.into_future());

    // Served as long as the example lasts: now a client.
    for attempt in 1..=4 {
        let answer = send(address, "POST /login").await?;
        println!("attempt {attempt}: {}", answer.lines().next().unwrap_or_default());
        assert_eq!(answer.starts_with("HTTP/1.1 200"), attempt <= 3);
        assert_eq!(answer.contains("retry-after: "), attempt == 4);
        // Both limits speak, the outer one first.
        assert!(answer.contains(r#"ratelimit-policy: "per-client";q=200;w=2, "login";q=3;w=60"#), "{answer}");
    }
    assert!(send(address, "GET /").await?.ends_with("hello\n"), "the rest goes on");
    Ok(())
}

async fn send(to: SocketAddr, what: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    let request =
        format!("{what} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
