//! From a verdict to what happens next: the request goes on, or gets one of our own answers. The only file of
//! the layer that makes responses.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};

use super::body::Body;
use super::config::{Asked, Config, Held};
use super::error::LayerError;
use super::key::KeyError;
use crate::decision::Decision;
use crate::error::{CheckError, StoreError, StoreErrorKind};
use crate::fields::{Fields, REDUCED_CAPACITY};
use crate::limiter::refuse_impossible;
use crate::store::{Origin, Store, Verdict};

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What happens to a request.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one; a box would be an allocation a request"
)]
pub(super) enum Next<S, B> {
    /// It goes on to the inner service; `None` if it was let through unjudged.
    Forward(Option<Admitted<S, B>>),
    /// It is answered.
    Answer(Response<Bytes>),
}

/// What an admitted request's response will need.
pub(super) struct Admitted<S, B> {
    config: Arc<Config<S, B>>,
    decision: Decision<'static>,
    held: Option<Held>,
}

impl<S, B> Admitted<S, B> {
    pub(super) fn into_response<T>(self, mut response: Response<T>) -> Response<Body<T>> {
        self.config.tell(&self.decision, None, &mut response);
        response.map(|body| Body::holding(body, self.held))
    }
}

pub(super) fn judged<S: Store, B>(
    config: &Arc<Config<S, B>>,
    asked: &Asked<'_>,
    verdict: Verdict,
    request: &mut Request<B>,
) -> Next<S, B> {
    if !verdict.admitted && verdict.origin == Origin::FailedClosed {
        // Nobody judged: that is the server's trouble, not a limit's "no".
        let error = StoreError::new(StoreErrorKind::Unavailable, "refused because the store is gone");
        return not_judged(config, CheckError::from(error).into(), request);
    }
    if !verdict.admitted {
        if let Err(error) = refuse_impossible(&asked.charges(), &verdict) {
            return not_judged(config, error.into(), request);
        }
        return Next::Answer(denied(config, &Decision::new(asked.limits(), verdict), request));
    }
    let held = asked.hold(&config.limiter, &verdict.outcomes);
    let decision = Decision::new(asked.limits(), verdict).into_owned();
    request.extensions_mut().insert(decision.clone());
    Next::Forward(Some(Admitted { config: Arc::clone(config), decision, held }))
}

pub(super) fn not_judged<S, B>(config: &Config<S, B>, error: LayerError, request: &Request<B>) -> Next<S, B> {
    let answer = match &config.on_error {
        Some(on_error) => on_error(&error, request),
        None => Some(problem(&error, is_grpc(request))),
    };
    let Some(mut response) = answer else { return Next::Forward(None) };
    response.extensions_mut().insert(Arc::new(error));
    Next::Answer(response)
}

fn denied<S, B>(config: &Config<S, B>, decision: &Decision<'_>, request: &Request<B>) -> Response<Bytes> {
    let mut response = match &config.on_denied {
        Some(on_denied) => on_denied(decision, request),
        None if is_grpc(request) => grpc(8, &refusal(decision)),
        None => own(StatusCode::TOO_MANY_REQUESTS, Fields::problem(decision)),
    };
    // A wait that `on_denied` chose stays, say one with jitter.
    let chosen = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    config.tell(decision, chosen.or_else(|| Fields::retry_after(decision)), &mut response);
    response.extensions_mut().insert(decision.clone().into_owned());
    response
}

fn refusal(decision: &Decision<'_>) -> String {
    let name = decision.limit().map_or("", |limit| limit.name());
    match Fields::retry_after(decision) {
        Some(seconds) => format!("rate limit {name} exceeded, retry after {seconds} s"),
        None => format!("rate limit {name} exceeded"),
    }
}

/// Whoever asks over gRPC reads trailers; grpc-web, in all its spellings, reads them from the head too.
fn is_grpc<B>(request: &Request<B>) -> bool {
    const PREFIX: &[u8] = b"application/grpc";
    request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().get(..PREFIX.len()))
        .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// Says what went wrong without saying more than a client needs.
fn problem(error: &LayerError, grpc_client: bool) -> Response<Bytes> {
    const BLANK: &str = "about:blank";
    let (status, code, kind, title, detail) = match error {
        LayerError::Key(KeyError::MissingHeader(_)) => {
            (StatusCode::BAD_REQUEST, 3, BLANK, "Bad Request", error.to_string())
        }
        // Meant for the programmer, who sees it on the very first request.
        LayerError::Key(KeyError::MissingPeer) => {
            (StatusCode::INTERNAL_SERVER_ERROR, 13, BLANK, "Internal Server Error", error.to_string())
        }
        LayerError::Key(_) => {
            let detail = "the request could not be told apart from others".to_owned();
            (StatusCode::INTERNAL_SERVER_ERROR, 13, BLANK, "Internal Server Error", detail)
        }
        LayerError::Check(CheckError::CostExceedsLimit { limit, cost, capacity }) => {
            let detail =
                format!("a cost of {cost} can never be admitted: the limit {limit} holds {capacity} at most");
            (StatusCode::PAYLOAD_TOO_LARGE, 3, BLANK, "Content Too Large", detail)
        }
        LayerError::Check(_) => {
            let title = "Request cannot be satisfied due to temporary server capacity constraints";
            let detail = "rate limits could not be checked".to_owned();
            (StatusCode::SERVICE_UNAVAILABLE, 14, REDUCED_CAPACITY, title, detail)
        }
    };
    if grpc_client {
        return grpc(code, &detail);
    }
    // None of these texts has a character that JSON would escape.
    let code = status.as_u16();
    let json = format!(r#"{{"type":"{kind}","title":"{title}","status":{code},"detail":"{detail}"}}"#);
    own(status, json.into())
}

fn own(status: StatusCode, json: Bytes) -> Response<Bytes> {
    let mut response = Response::new(json);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
    response
}

/// A response that consists of trailers only, which lie in the head when there is no body.
fn grpc(code: u16, message: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(GRPC_STATUS, code.into());
    if let Ok(message) = HeaderValue::from_str(message) {
        headers.insert(GRPC_MESSAGE, message);
    }
    response
}
