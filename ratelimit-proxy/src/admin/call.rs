//! [`Call`]: a request of an operator's, and its body, which is JSON and small.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::reply::{Answer, Reply, refusal};

/// Most bytes of a body.
const MOST: usize = 64 * 1024;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request.
pub(super) struct Call<B> {
    head: Parts,
    body: B,
    /// The other end of the connection.
    pub(super) peer: SocketAddr,
}

impl<B> Call<B> {
    pub(super) fn new(request: Request<B>, peer: SocketAddr) -> Self {
        let (head, body) = request.into_parts();
        Self { head, body, peer }
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    pub(super) fn head(&self) -> &Parts {
        &self.head
    }

    /// The method, as far as it matters: HEAD is GET without the body.
    pub(super) fn method(&self) -> &Method {
        if self.head.method == Method::HEAD { &Method::GET } else { &self.head.method }
    }

    /// Whether it only asks; else that it may not.
    pub(super) fn reads(&self) -> Answer<()> {
        if *self.method() == Method::GET { Ok(()) } else { Err(self.only("GET, HEAD")) }
    }

    /// Whether it is a POST; else that it has to be.
    pub(super) fn posts(&self) -> Answer<()> {
        if *self.method() == Method::POST { Ok(()) } else { Err(self.only("POST")) }
    }

    /// What else can be done instead.
    pub(super) fn only(&self, methods: &'static str) -> Box<Reply> {
        let mut reply = refusal(StatusCode::METHOD_NOT_ALLOWED, &format!("this is asked for with {methods}"));
        reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
        reply
    }

    /// A parameter of the query, decoded.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self.head.uri.query().unwrap_or_default().split('&');
        let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(known, _)| *known == name)?.1;
        percent_encoding::percent_decode_str(value).decode_utf8().ok().map(std::borrow::Cow::into_owned)
    }
}

/// Reads a body away, unless it is without measure.
async fn discard(body: impl Body<Data = Bytes>) {
    let mut body = std::pin::pin!(body);
    let mut left: usize = 1 << 20;
    while let Some(Ok(frame)) = body.as_mut().frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}

impl<B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>> Call<B> {
    /// The value that the body is.
    pub(super) async fn json<T: DeserializeOwned>(self) -> Answer<T> {
        let json = self.head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
            let kind = kind.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
            kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
        });
        if !json {
            let detail = "the body has to be JSON: Content-Type: application/json";
            return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        let bytes = self.bytes(MOST).await?;
        // A list would be taken for the fields in their order.
        if bytes.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
            return Err(refusal(StatusCode::BAD_REQUEST, "the body is not what it should be: an object"));
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            refusal(StatusCode::BAD_REQUEST, &format!("the body is not what it should be: {error}"))
        })
    }

    /// The body, of at most so many bytes.
    pub(super) async fn bytes(self, most: usize) -> Answer<Bytes> {
        let told = self.body.size_hint().lower();
        let large = || refusal(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body has at most {most} bytes"));
        if told > u64::try_from(most).unwrap_or(u64::MAX) {
            // Who is in the middle of sending it can read the answer only when it is through.
            let _ = tokio::time::timeout(PATIENCE, discard(self.body)).await;
            return Err(large());
        }
        let body = std::pin::pin!(Limited::new(self.body, most));
        match tokio::time::timeout(PATIENCE, body.collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(large()),
            Ok(Err(_)) => Err(refusal(StatusCode::BAD_REQUEST, "the body can't be read")),
            Err(_) => Err(refusal(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
        }
    }
}
