//! Our own answers: a [`Decision`] or a [`Fault`] in, a response out. The only file that makes responses.
//!
//! They are boxed, because a response is handed on from step to step, and each would copy it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode, Version};
use ratelimit_core::fields::{REDUCED_CAPACITY, Told};
use ratelimit_core::{Decision, Fields, Nanos};

use crate::exchange::Body;
use crate::fault::Fault;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// How the proxy answers for itself.
#[derive(Clone, Debug)]
pub struct Answers {
    /// The fields that tell a client about its limits.
    pub fields: Fields,
    /// The status of a denial.
    pub status: StatusCode,
    /// The body of a denial.
    pub body: DenialBody,
    /// Up to this share is added to `Retry-After`, so that those who were denied together do not come back
    /// together.
    pub retry_jitter: f64,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            fields: Fields::default(),
            status: StatusCode::TOO_MANY_REQUESTS,
            body: DenialBody::Problem,
            retry_jitter: 0.0,
        }
    }
}

/// The body of a denial.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DenialBody {
    /// A problem in JSON (RFC 9457) that names the limits which said no.
    Problem,
    /// One line for people.
    Text,
    /// The operator's own.
    File {
        /// The body.
        content: Bytes,
        /// Its type.
        content_type: HeaderValue,
    },
}

impl Answers {
    /// Adds what a client may know about its limits to a response of the upstream's.
    pub(crate) fn tell(&self, decision: &Decision<'_>, told: &mut Told, utc: Nanos, headers: &mut HeaderMap) {
        self.fields.write_again(decision, told, Fields::retry_after(decision), utc, headers);
    }

    /// A limit said no; asking again later helps. The memory of the request's fields serves for the answer's.
    pub(crate) fn denied(
        &self,
        decision: &Decision<'_>,
        told: &mut Told,
        head: &mut Parts,
        utc: Nanos,
    ) -> Box<Response<Body>> {
        let retry_after = Fields::retry_after(decision).map(|seconds| self.spread(seconds));
        if is_grpc(&head.headers) {
            return self.grpc(decision, retry_after, utc);
        }
        let (body, content_type) = self.body(retry_after, || told.problem(decision, self.status));
        let mut headers = std::mem::take(&mut head.headers);
        headers.clear();
        headers.insert(header::CONTENT_TYPE, content_type);
        // Most denials come in floods, and each says what the one before it said.
        let lines = if head.version == Version::HTTP_2 {
            None
        } else {
            told.lines(&self.fields, decision, retry_after)
        };
        if lines.is_none() {
            self.fields.write_again(decision, told, retry_after, utc, &mut headers);
        }
        let mut response = Box::new(Response::new(Body::own_with(body, lines)));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }

    /// What a client is told of a denial that another proxy answers with that status: fields and body.
    pub(crate) fn denial(
        &self,
        decision: &Decision<'_>,
        status: StatusCode,
        utc: Nanos,
    ) -> (HeaderMap, Bytes) {
        let retry_after = Fields::retry_after(decision).map(|seconds| self.spread(seconds));
        let (body, content_type) = self.body(retry_after, || Fields::problem_with_status(decision, status));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type);
        self.fields.write_with(decision, None, retry_after, utc, &mut headers);
        (headers, body)
    }

    /// The body of a denial and its type.
    fn body(&self, retry_after: Option<u64>, problem: impl FnOnce() -> Bytes) -> (Bytes, HeaderValue) {
        match &self.body {
            DenialBody::Problem => (problem(), PROBLEM),
            DenialBody::Text => (text(retry_after), TEXT),
            DenialBody::File { content, content_type } => (content.clone(), content_type.clone()),
        }
    }

    /// A request that costs more than a limit can ever hold; asking again never helps.
    pub(crate) fn never(&self, decision: &Decision<'_>, head: &Parts, utc: Nanos) -> Box<Response<Body>> {
        if is_grpc(&head.headers) {
            return self.grpc(decision, None, utc);
        }
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        let mut response = response(status, Fields::problem_with_status(decision, status), PROBLEM);
        self.fields.write_with(decision, None, None, utc, response.headers_mut());
        response
    }

    /// Something else than a limit keeps a request from being served.
    pub(crate) fn fault(&self, fault: Fault) -> Box<Response<Body>> {
        let status = fault.status();
        let reduced = status == StatusCode::SERVICE_UNAVAILABLE;
        let kind = if reduced { REDUCED_CAPACITY } else { "about:blank" };
        // Nothing here comes from the client, and nothing needs escaping.
        let body = format!(
            r#"{{"type":"{kind}","title":"{}","status":{},"detail":"{}"}}"#,
            status.canonical_reason().unwrap_or_default(),
            status.as_str(),
            fault.detail(),
        );
        let mut response = response(status, body.into(), PROBLEM);
        let headers = response.headers_mut();
        if fault.closes() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(seconds) = fault.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if fault == Fault::Method {
            headers.insert(
                header::ALLOW,
                HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            );
        }
        response
    }

    /// The same to a call of gRPC: trailers only, with the code that gRPC has for that status. Many clients would read
    /// HTTP's as a broken answer.
    pub(crate) fn fault_of_grpc(&self, fault: Fault) -> Box<Response<Body>> {
        let code = match fault.status().as_u16() {
            400 => "13",
            401 => "16",
            403 => "7",
            404 => "12",
            502..=504 => "14",
            _ => "2",
        };
        let kind = HeaderValue::from_static("application/grpc");
        let mut response = response(StatusCode::OK, Bytes::new(), kind);
        let headers = response.headers_mut();
        headers.insert(GRPC_STATUS, HeaderValue::from_static(code));
        headers.insert(GRPC_MESSAGE, HeaderValue::from_static(fault.detail()));
        if let Some(seconds) = fault.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// Trailers only, with HTTP's 200: gRPC clients take a 429 for UNAVAILABLE and try again at once.
    fn grpc(&self, decision: &Decision<'_>, retry_after: Option<u64>, utc: Nanos) -> Box<Response<Body>> {
        let mut response =
            response(StatusCode::OK, Bytes::new(), HeaderValue::from_static("application/grpc"));
        let headers = response.headers_mut();
        headers.insert(GRPC_STATUS, HeaderValue::from_static("8"));
        headers.insert(GRPC_MESSAGE, HeaderValue::from_static("rate limit exceeded"));
        self.fields.write_with(decision, None, retry_after, utc, headers);
        response
    }

    fn spread(&self, seconds: u64) -> u64 {
        if self.retry_jitter <= 0.0 {
            return seconds;
        }
        // Bounded on both sides, because a product that no Duration holds would panic.
        let share = self.retry_jitter.clamp(0.0, 10.0);
        let most = Duration::from_secs(seconds.min(1 << 32)).mul_f64(share).as_secs();
        seconds.saturating_add(fastrand::u64(0..=most))
    }
}

fn response(status: StatusCode, body: Bytes, content_type: HeaderValue) -> Box<Response<Body>> {
    let mut response = Box::new(Response::new(Body::own(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn text(retry_after: Option<u64>) -> Bytes {
    match retry_after {
        Some(1) => Bytes::from_static(b"Too many requests. Try again in 1 second.\n"),
        Some(seconds) => format!("Too many requests. Try again in {seconds} seconds.\n").into(),
        None => Bytes::from_static(b"Too many requests.\n"),
    }
}

/// Whether a request is a call of gRPC: `application/grpc`, `application/grpc+proto` and so on; `application/grpc-web` is read by browsers as plain
/// HTTP, trailers and all in the body.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else { return false };
    let Some((start, rest)) = content_type.as_bytes().split_at_checked("application/grpc".len()) else {
        return false;
    };
    start.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}
