//! The layer under axum, over real connections.
#![cfg(all(feature = "tower", feature = "axum"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{ConnectInfo, Extension, Path};
use axum::routing::get;
use bytes::Bytes;
use http::Request;
use http_body::Frame;
use ratelimit_core::tower::{RateLimitLayer, key};
use ratelimit_core::{Decision, Limit, Limiter, ManualClock, MemoryStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tower::ServiceBuilder;

fn limiter() -> (Limiter<MemoryStore<ManualClock>>, ManualClock) {
    let clock = ManualClock::default();
    (Limiter::new(MemoryStore::with_clock(clock.clone())), clock)
}

/// Serves on a free port for as long as the test runs.
async fn serve(app: Router, with_peer: bool) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        if with_peer {
            axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
        } else {
            axum::serve(listener, app).await
        }
    });
    address
}

/// One request over a connection of its own; the answer in lower case, head and body.
async fn ask(to: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.to_lowercase()
}

#[tokio::test]
async fn limits_by_peer_and_tells_the_handler() {
    let (limiter, clock) = limiter();
    let per_peer = Limit::new("per-peer", "2/min".parse().unwrap());
    let app = Router::new()
        .route(
            "/",
            get(async |Extension(decision): Extension<Decision<'static>>, peer: ConnectInfo<SocketAddr>| {
                format!("{} left for {}", decision.remaining(), peer.ip())
            }),
        )
        .layer(RateLimitLayer::new(limiter, per_peer).key(key::peer_ip));
    let address = serve(app, true).await;
    for left in [1, 0] {
        let answer = ask(address, "/", "").await;
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        assert!(answer.contains(r#"ratelimit-policy: "per-peer";q=2;w=60"#), "{answer}");
        assert!(answer.ends_with(&format!("{left} left for 127.0.0.1")), "{answer}");
    }
    let denied = ask(address, "/", "").await;
    assert!(denied.starts_with("http/1.1 429"), "{denied}");
    assert!(denied.contains("\r\nretry-after: 30\r\n"), "{denied}");
    assert!(denied.contains("content-type: application/problem+json"), "{denied}");
    clock.advance(std::time::Duration::from_secs(30));
    assert!(ask(address, "/", "").await.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn a_router_that_forgot_the_peer_says_what_to_add() {
    let (limiter, _) = limiter();
    let layer =
        RateLimitLayer::new(limiter, Limit::new("per-peer", "2/min".parse().unwrap())).key(key::peer_ip);
    let address = serve(Router::new().route("/", get(async || "never")).layer(layer), false).await;
    let answer = ask(address, "/", "").await;
    assert!(answer.starts_with("http/1.1 500"), "{answer}");
    assert!(answer.contains("into_make_service_with_connect_info::<socketaddr>()"), "{answer}");
}

#[tokio::test]
async fn the_order_of_a_service_builder_and_route_layers_nest() {
    let (limiter, _) = limiter();
    let user = |req: &Request<_>| req.headers().get("x-user").cloned();
    let outer = RateLimitLayer::new(limiter.clone(), Limit::new("all", "100/min".parse().unwrap())).key(user);
    let inner = RateLimitLayer::new(limiter, Limit::new("items", "1/min".parse().unwrap())).key(user);
    let app = Router::new()
        .route("/items/{id}", get(async |Path(id): Path<u32>| id.to_string()).layer(inner))
        .route("/free", get(async || "free"))
        .layer(ServiceBuilder::new().layer(outer));
    let address = serve(app, false).await;
    let first = ask(address, "/items/7", "x-user: ann\r\n").await;
    assert!(first.contains(r#"ratelimit: "all";r=99;t=1, "items";r=0;t=60"#), "{first}");
    assert!(ask(address, "/items/8", "x-user: ann\r\n").await.starts_with("http/1.1 429"));
    assert!(ask(address, "/items/8", "x-user: bob\r\n").await.starts_with("http/1.1 200"));
    assert!(ask(address, "/free", "x-user: ann\r\n").await.starts_with("http/1.1 200"));
}

/// A body that ends when the sender is dropped.
struct Stream(mpsc::Receiver<Bytes>);

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

#[tokio::test]
async fn a_permit_is_held_while_a_response_streams_and_comes_back_when_the_client_goes() {
    let (limiter, _) = limiter();
    let at_once = Limit::concurrency("at-once", 1);
    let (senders, mut opened) = mpsc::channel(4);
    let app = Router::new()
        .route(
            "/",
            get(async move || {
                let (sender, receiver) = mpsc::channel(1);
                senders.send(sender).await.unwrap();
                axum::body::Body::new(Stream(receiver))
            }),
        )
        .layer(RateLimitLayer::new(limiter.clone(), at_once.clone()));
    let address = serve(app, false).await;
    let free = async || limiter.peek(&at_once, ()).await.unwrap().remaining();

    // Read to its end.
    let reading = tokio::spawn(async move { ask(address, "/", "").await });
    let sender: mpsc::Sender<Bytes> = opened.recv().await.unwrap();
    assert_eq!(free().await, 0);
    assert!(ask(address, "/", "").await.starts_with("http/1.1 429"));
    sender.send(Bytes::from_static(b"whole")).await.unwrap();
    drop(sender);
    assert!(reading.await.unwrap().contains("whole"));
    assert_eq!(free().await, 1);

    // Left in the middle.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let sender = opened.recv().await.unwrap();
    assert_eq!(free().await, 0);
    drop(stream);
    // The server drops the body, and with it the receiver, once it notices.
    sender.closed().await;
    while free().await == 0 {
        tokio::task::yield_now().await;
    }
}
