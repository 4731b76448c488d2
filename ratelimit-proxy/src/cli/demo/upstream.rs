//! The sample upstream: a shop with some items, and a login for which nobody has the password.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Runs until dropped.
pub(super) struct Upstream {
    address: SocketAddr,
    served: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    /// Serves on that address.
    pub(super) async fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let served = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&served)));
        Ok(Self { address, served, _tasks: tasks })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests reached it.
    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, served: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let served = Arc::clone(&served);
        connections.spawn(async move {
            let service = service_fn(|request| {
                let number = served.fetch_add(1, Ordering::Relaxed) + 1;
                std::future::ready(Ok::<_, Infallible>(answer(&request, number)))
            });
            // A connection that breaks is over, and nothing else.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

fn answer(request: &Request<Incoming>, number: u64) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::POST, "/login") => (StatusCode::UNAUTHORIZED, r#"{"error":"wrong password"}"#.to_owned()),
        (_, "/") => (StatusCode::OK, r#"{"try":["/items","POST /login"]}"#.to_owned()),
        _ => (StatusCode::OK, format!(r#"{{"items":["apple","pear"],"request":{number}}}"#)),
    };
    let mut response = Response::new(Full::new(Bytes::from(body + "\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
