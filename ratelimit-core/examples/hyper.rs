//! Limits under plain hyper: any tower service will do, and whoever accepts a connection knows its peer.
//!
//! `cargo run -p ratelimit-core --example hyper`

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use ratelimit_core::tower::{PeerAddr, RateLimitLayer, key};
use ratelimit_core::{Limit, Limiter, MemoryStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{ServiceBuilder, ServiceExt, service_fn};

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("hello\n")))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let per_peer = Limit::new("per-peer", "2/min".parse()?);
    let layer = RateLimitLayer::new(Limiter::new(MemoryStore::default()), per_peer).key(key::peer_ip);
    let app = ServiceBuilder::new().layer(layer).service(service_fn(hello));

    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}");
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let service = app.clone().map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(PeerAddr(peer));
                request
            });
            let connection = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
            tokio::spawn(connection);
        }
    });

    // Served as long as the example lasts: now a client.
    for attempt in 1..=3 {
        let answer = get(address).await?;
        println!("attempt {attempt}: {}", answer.lines().next().unwrap_or_default());
        assert_eq!(answer.starts_with("HTTP/1.1 200"), attempt <= 2);
        assert_eq!(answer.contains("quota-exceeded"), attempt == 3);
    }
    Ok(())
}

async fn get(from: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(from).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
