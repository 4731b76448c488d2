//! What operators are answered with: pages, JSON, and problems in JSON (RFC 9457).

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

/// An answer.
pub(super) type Reply = Response<Full<Bytes>>;

/// What is worked out, or the answer that it is refused with.
pub(super) type Answer<T = Reply> = Result<T, Box<Reply>>;

pub(super) const HTML: &str = "text/html; charset=utf-8";
pub(super) const JSON: &str = "application/json";
pub(super) const PROBLEM: &str = "application/problem+json";
pub(super) const SVG: &str = "image/svg+xml";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// What a browser may do with an answer: nothing, and nobody frames it. The dashboard has a policy of its own.
pub(super) const NOTHING: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Fields of every answer.
const GUARDS: [(HeaderName, HeaderValue); 6] = [
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CONTENT_SECURITY_POLICY, NOTHING),
];

#[derive(Debug, Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

/// Why something is not done.
pub(super) fn problem(status: StatusCode, detail: &str) -> Reply {
    let title = status.canonical_reason().unwrap_or_default();
    let problem = Problem { r#type: "about:blank", title, status: status.as_u16(), detail };
    response(status, PROBLEM, serde_json::to_vec(&problem).unwrap_or_default())
}

/// The same, where it is refused to go on.
pub(super) fn refusal(status: StatusCode, detail: &str) -> Box<Reply> {
    Box::new(problem(status, detail))
}

/// A value as JSON.
pub(super) fn json(value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => response(StatusCode::OK, JSON, body),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer can't be written"),
    }
}

pub(super) fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.extend(GUARDS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
