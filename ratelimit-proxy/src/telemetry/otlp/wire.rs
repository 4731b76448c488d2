//! One message to the collector: protobuf over HTTP/1.1, or gRPC.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prost::Message as _;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::signal::Signal;
use crate::config::{OtlpConfig, read_regular};
use crate::outgoing::{AGENT, Causes};
use crate::upstream::{Tls, TlsParts};

/// Most bytes of an answer.
const MOST_BYTES: usize = 64 * 1024;
/// How long the collector may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

type HttpClient = Client<HttpsConnector<HttpConnector>, tonic::body::Body>;

pub(super) struct Wire {
    client: HttpClient,
    grpc: bool,
    endpoint: Uri,
    headers: HeaderMap,
}

/// Why a message was not taken.
#[derive(Debug)]
pub(super) enum Refused {
    Slow,
    Transport(Box<dyn std::error::Error + Send + Sync>),
    Http(StatusCode),
    Grpc(Status),
    /// The answer is none of the protocol.
    Nonsense,
}

impl Refused {
    /// Whether it may be taken later, as the protocol has it.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Slow | Self::Transport(_) => true,
            Self::Http(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Grpc(status) => matches!(
                status.code(),
                Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::ResourceExhausted
                    | Code::Aborted
                    | Code::OutOfRange
                    | Code::Unavailable
                    | Code::DataLoss
            ),
            Self::Nonsense => false,
        }
    }
}

impl Wire {
    /// # Errors
    /// When the authorities can't be read.
    pub(super) fn new(config: &OtlpConfig) -> io::Result<Self> {
        let authorities = config.ca.as_ref().map(|path| read_regular(path)).transpose()?;
        let tls = Tls::new(&TlsParts { authorities, ..TlsParts::default() }).map_err(io::Error::other)?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls.client_config()).https_or_http();
        let connector =
            if config.grpc { connector.enable_http2().build() } else { connector.enable_http1().build() };
        let client = Client::builder(TokioExecutor::new()).http2_only(config.grpc).build(connector);
        let (endpoint, grpc) = (config.endpoint.clone(), config.grpc);
        Ok(Self { client, grpc, endpoint, headers: config.headers.clone() })
    }

    /// Says it. What was thrown away of it, and why, is in the answer.
    pub(super) async fn send<S: Signal>(&self, message: S) -> Result<Option<(i64, String)>, Refused> {
        let answer = async { if self.grpc { self.grpc(message).await } else { self.http(message).await } };
        let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap_or(Err(Refused::Slow))?;
        Ok(S::rejected(answer))
    }

    async fn http<S: Signal>(&self, message: S) -> Result<S::Response, Refused> {
        let base = self.endpoint.path().trim_end_matches('/');
        let mut parts = self.endpoint.clone().into_parts();
        let path = PathAndQuery::try_from(format!("{base}{}", S::PATH));
        parts.path_and_query = Some(path.map_err(|_| Refused::Nonsense)?);
        let body = tonic::body::Body::new(Full::new(Bytes::from(message.encode_to_vec())));
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Refused::Nonsense)?;
        let fields = request.headers_mut();
        fields.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
        fields.extend(self.headers.clone());
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let response =
            self.client.request(request).await.map_err(|error| Refused::Transport(Box::new(error)))?;
        let status = response.status();
        // Read in any case, so that the connection can be used again.
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
        if status != StatusCode::OK {
            return Err(Refused::Http(status));
        }
        let body = body.map_err(Refused::Transport)?.to_bytes();
        // Some collectors answer with nothing, or with JSON; it was taken all the same.
        Ok(S::Response::decode(body).unwrap_or_default())
    }

    async fn grpc<S: Signal>(&self, message: S) -> Result<S::Response, Refused> {
        let mut grpc = tonic::client::Grpc::with_origin(self.client.clone(), self.endpoint.clone());
        grpc.ready().await.map_err(|error| Refused::Transport(Box::new(error)))?;
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(self.headers.clone());
        let path = PathAndQuery::from_static(S::METHOD);
        let codec = ProstCodec::<S, S::Response>::default();
        grpc.unary(request, path, codec).await.map(tonic::Response::into_inner).map_err(Refused::Grpc)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow => write!(f, "no answer within {} s", PATIENCE.as_secs()),
            Self::Transport(error) => Causes(&**error).fmt(f),
            Self::Http(status) => write!(f, "status {}", status.as_u16()),
            Self::Grpc(status) => write!(f, "{}: {}", status.code(), status.message()),
            Self::Nonsense => f.write_str("no answer of the protocol"),
        }
    }
}
