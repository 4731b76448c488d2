//! What there is to ask for, and who may: a page of another site must not read this one through the visitor's
//! browser (DNS rebinding), so a listener on loopback answers to loopback's names only.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde_json::json;

use super::limits::Limits;
use super::locked;
use super::page::PAGE;
use super::stats::Stats;
use super::upstreams::Upstreams;
use super::view::View;
use crate::telemetry::metrics::WorkerMetrics;
use crate::telemetry::{Format, expose};

const HTML: &str = "text/html; charset=utf-8";
pub(super) const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";
const TEXT: &str = "text/plain; charset=utf-8";

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

/// Answers operators.
pub(super) struct Routes {
    view: Arc<View>,
    loopback: bool,
    /// What is decided here is counted here.
    metrics: Arc<WorkerMetrics>,
}

/// A problem in JSON (RFC 9457).
#[derive(Debug, Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl Routes {
    /// For a listener there.
    pub(super) fn new(view: Arc<View>, address: SocketAddr) -> Self {
        let metrics = view.shared().metrics.worker();
        Self { view, loopback: address.ip().to_canonical().is_loopback(), metrics }
    }

    /// Whether it answers on loopback.
    pub(super) const fn loopback(&self) -> bool {
        self.loopback
    }

    /// What is decided here is counted here.
    pub(super) fn counted(&self) -> &WorkerMetrics {
        &self.metrics
    }

    /// What is shown.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Answers a request.
    pub(super) fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if self.loopback && !names_loopback(request) {
            let detail = "this listener is on loopback and answers to localhost only";
            return problem(StatusCode::MISDIRECTED_REQUEST, detail);
        }
        let path = request.uri().path();
        if path == "/api/reload" {
            return self.reload(request);
        }
        let Some(get) = self.route(path) else {
            return problem(StatusCode::NOT_FOUND, "there is no such page; / lists what there is");
        };
        if *request.method() != Method::GET && *request.method() != Method::HEAD {
            let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "this can only be read");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        get(self, request.headers())
    }

    #[expect(clippy::type_complexity, reason = "what a path leads to: a function from fields to a response")]
    fn route(&self, path: &str) -> Option<fn(&Self, &HeaderMap) -> Response<Full<Bytes>>> {
        Some(match path {
            "/" => Self::page,
            "/livez" => |_, _| response(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => Self::readyz,
            "/metrics" => Self::metrics,
            "/api/limits" => Self::limits,
            "/api/stats" => Self::stats,
            "/api/history" => Self::history,
            "/api/upstreams" => Self::upstreams,
            _ => return None,
        })
    }

    /// Reads the configuration again. Nothing may be changed from elsewhere without a token, nor by a page of
    /// another site through the visitor's browser.
    fn reload<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if *request.method() != Method::POST {
            let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "this is asked for with POST");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        if !self.loopback {
            let detail =
                "a listener that is not on loopback changes nothing without a token: not available yet";
            return problem(StatusCode::FORBIDDEN, detail);
        }
        if comes_from_another_site(request.headers()) {
            return problem(StatusCode::FORBIDDEN, "pages of other sites change nothing here");
        }
        let Some(reloader) = self.view.reloader() else {
            return problem(
                StatusCode::CONFLICT,
                "the proxy runs without a file, so there is none to read again",
            );
        };
        let (status, content_type, body) = match reloader.ask() {
            Ok(applied) => {
                let told = json!({"outcome": "applied", "limits": applied.limits, "kept": applied.kept});
                (StatusCode::OK, JSON, told)
            }
            Err(faults) => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                let told = json!({
                    "type": "about:blank",
                    "title": "the configuration is refused",
                    "status": status.as_u16(),
                    "detail": "the old configuration stays in force",
                    "faults": faults,
                });
                (status, PROBLEM, told)
            }
        };
        response(status, content_type, body.to_string())
    }

    fn readyz(&self, _: &HeaderMap) -> Response<Full<Bytes>> {
        match self.view.unready() {
            None => response(StatusCode::OK, TEXT, "ok\n"),
            Some(why) => problem(StatusCode::SERVICE_UNAVAILABLE, why),
        }
    }

    fn metrics(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let open = headers.get_all(header::ACCEPT).iter().any(|accept| {
            accept.to_str().is_ok_and(|accept| accept.contains("application/openmetrics-text"))
        });
        let format = if open { Format::OpenMetrics } else { Format::Prometheus };
        match expose(self.view.shared().metrics.totals(), self.view.gauges(), format) {
            Ok(page) => response(StatusCode::OK, format.content_type(), page),
            Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written"),
        }
    }

    fn page(&self, _: &HeaderMap) -> Response<Full<Bytes>> {
        let mut response = response(StatusCode::OK, HTML, PAGE.html.clone());
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, PAGE.policy.clone());
        response
    }

    fn stats(&self, _: &HeaderMap) -> Response<Full<Bytes>> {
        shown(&Stats::of(&self.view))
    }

    fn history(&self, _: &HeaderMap) -> Response<Full<Bytes>> {
        shown(&*locked(self.view.history()))
    }

    fn limits(&self, _: &HeaderMap) -> Response<Full<Bytes>> {
        shown(&Limits::of(&self.view))
    }

    fn upstreams(&self, _: &HeaderMap) -> Response<Full<Bytes>> {
        shown(&Upstreams::of(&self.view))
    }
}

fn shown(what: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(what) {
        Ok(body) => response(StatusCode::OK, JSON, body),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "it can't be written"),
    }
}

/// Whether a browser sent it for a page that did not come from here. Programs name no origin.
pub(super) fn comes_from_another_site(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let own = headers.get(header::HOST).map(HeaderValue::as_bytes);
    own.is_none_or(|own| origin.as_bytes().strip_prefix(b"http://") != Some(own))
}

/// Whether a request names the host as loopback; HTTP/1.0 may name none, which no browser does.
pub(super) fn names_loopback<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (None, _) => return request.uri().authority().is_none(),
        (Some(host), None) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
        _ => None,
    };
    let loopback = |authority: &Authority| {
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        bare.eq_ignore_ascii_case("localhost")
            || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
    };
    named.as_ref().is_some_and(loopback) && request.uri().authority().is_none_or(loopback)
}

pub(super) fn problem(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    let title = status.canonical_reason().unwrap_or_default();
    let problem = Problem { r#type: "about:blank", title, status: status.as_u16(), detail };
    response(status, PROBLEM, serde_json::to_vec(&problem).unwrap_or_default())
}

pub(super) fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.extend(GUARDS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopbacks_own_names_are_answered_on_loopback() {
        let request = |host: &str| Request::builder().header("host", host).body(()).unwrap();
        for host in
            ["localhost", "LOCALHOST:9090", "127.0.0.1:9090", "127.1.2.3", "[::1]:9090", "[::ffff:127.0.0.1]"]
        {
            assert!(names_loopback(&request(host)), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example", "", "[::2]"]
        {
            assert!(!names_loopback(&request(host)), "{host}");
        }
        let two = Request::builder().header("host", "localhost").header("host", "evil").body(()).unwrap();
        assert!(!names_loopback(&two));
        let absolute = Request::builder().uri("http://evil/").header("host", "localhost").body(()).unwrap();
        assert!(!names_loopback(&absolute));
        assert!(names_loopback(&Request::new(())));
    }
}
