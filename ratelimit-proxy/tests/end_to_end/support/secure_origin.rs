//! An upstream that speaks HTTP/2, or TLS, or both: hyper's server.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use redis_testkit::Certificates;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Number of the connection, from 0.
    pub connection: usize,
    pub version: Version,
    pub method: http::Method,
    pub uri: http::Uri,
    pub headers: HeaderMap,
}

/// How it is spoken to.
#[derive(Clone, Copy)]
pub enum Speaks<'c> {
    /// HTTP/2 without TLS.
    H2c,
    /// TLS with these certificates, and of these protocols the first that the client knows.
    Tls(&'c Certificates, &'c [&'static str]),
    /// The same, to clients with a certificate of that authority.
    Mutual(&'c Certificates, &'c [&'static str]),
}

/// A running upstream. What is sent to it comes back as it comes, and then a trailer `grpc-status: 0`.
pub struct SecureOrigin {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Arrived>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for SecureOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SecureOrigin {
    pub async fn start(speaks: Speaks<'_>) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), speaks).await
    }

    pub async fn start_at(address: SocketAddr, speaks: Speaks<'_>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let acceptor = match speaks {
            Speaks::H2c => None,
            Speaks::Tls(certificates, protocols) => Some(acceptor(certificates, protocols, false)),
            Speaks::Mutual(certificates, protocols) => Some(acceptor(certificates, protocols, true)),
        };
        let record = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            let mut number = 0;
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).unwrap();
                let (record, acceptor) = (Arc::clone(&record), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        None => serve(socket, true, number, record).await,
                        Some(acceptor) => {
                            let Ok(socket) = acceptor.accept(socket).await else { return };
                            let is_h2 = socket.get_ref().1.alpn_protocol() == Some(b"h2");
                            serve(socket, is_h2, number, record).await;
                        }
                    }
                });
                number += 1;
            }
        });
        Self { address, seen, task }
    }

    /// What has come so far.
    pub fn seen(&self) -> Vec<Arrived> {
        self.seen.lock().unwrap().clone()
    }
}

/// What makes connections of a server with those certificates.
pub fn acceptor(certificates: &Certificates, protocols: &[&str], mutual: bool) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_file(certificates.certificate()).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certificates.key()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if mutual {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificates.authority()).unwrap()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    is_h2: bool,
    connection: usize,
    record: Arc<Mutex<Vec<Arrived>>>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (head, body) = request.into_parts();
        let uri = head.uri.clone();
        record.lock().unwrap().push(Arrived {
            connection,
            version: head.version,
            method: head.method,
            uri: head.uri,
            headers: head.headers,
        });
        async move {
            if uri.path() == "/hang" {
                std::future::pending::<()>().await;
            }
            let mut response = Response::new(Echo { body, ended: false });
            let kind = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert("content-type", kind);
            response.headers_mut().insert("trailer", HeaderValue::from_static("grpc-status"));
            Ok::<_, Infallible>(response)
        }
    });
    let io = TokioIo::new(socket);
    let _ = if is_h2 {
        http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
    } else {
        http1::Builder::new().serve_connection(io, service).await
    };
}

/// What comes, and a trailer.
struct Echo {
    body: Incoming,
    ended: bool,
}

impl Body for Echo {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(None) => {
                self.ended = true;
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            other => other,
        }
    }
}
