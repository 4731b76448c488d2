//! What there is to ask for: which path leads to what, and who may.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header;
use http::{Method, Request, StatusCode};
use http_body::Body;
use serde_json::json;

use super::ask::MOST_ASKED;
use super::call::Call;
use super::guard::Guard;
use super::limits::Limits;
use super::locked;
use super::page::PAGE;
use super::reply::{Answer, HTML, JSON, PROBLEM, Reply, TEXT, json, problem, refusal, response};
use super::stats::Stats;
use super::upstreams::Upstreams;
use super::view::View;
use super::{auth, explain, keys, level, profile, top};
use crate::config::AdminToken;
use crate::telemetry::metrics::WorkerMetrics;
use crate::telemetry::trace::Trace;
use crate::telemetry::{Format, expose};

/// Answers operators.
pub(super) struct Routes {
    view: Arc<View>,
    guard: Guard,
    /// What is decided here is counted here.
    metrics: Arc<WorkerMetrics>,
}

impl Routes {
    /// For a listener there.
    pub(super) fn new(view: Arc<View>, address: SocketAddr, token: Option<AdminToken>) -> Self {
        let metrics = view.shared().metrics.worker();
        Self { view, guard: Guard::new(address, token), metrics }
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
    pub(super) async fn answer<B>(&self, request: Request<B>, peer: SocketAddr) -> Reply
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        self.route(Call::new(request, peer)).await.unwrap_or_else(|refused| *refused)
    }

    /// What is refused is an answer too.
    async fn route<B>(&self, call: Call<B>) -> Answer
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        if call.head().uri.path() == "/auth" {
            // It comes with the client's own host and origin, which say nothing about who asks.
            let mut trace = self.trace(&call);
            let reply = auth::auth(self, call.head().clone(), call.peer.ip(), &mut trace).await;
            return Ok(told(trace, reply));
        }
        self.guard.answers_to(&call.head().uri, call.headers())?;
        let path = call.head().uri.path().to_owned();
        let steering = self.view.steering();
        match &*path.strip_prefix('/').unwrap_or(&path).split('/').collect::<Vec<_>>() {
            [""] => call.reads().map(|()| page()),
            ["livez"] => call.reads().map(|()| response(StatusCode::OK, TEXT, "ok\n")),
            ["readyz"] => call.reads().map(|()| self.readyz()),
            ["metrics"] => call.reads().map(|()| self.metrics(&call)),
            ["json"] => {
                call.posts()?;
                self.guard.may_ask(call.headers())?;
                let mut trace = self.trace(&call);
                let reply = self.json(&call.bytes(MOST_ASKED).await?, &mut trace).await;
                Ok(told(trace, reply))
            }
            ["api", "check"] => {
                call.posts()?;
                self.guard.may_ask(call.headers())?;
                let mut trace = self.trace(&call);
                let reply = self.check(&call.bytes(MOST_ASKED).await?, &mut trace).await;
                Ok(told(trace, reply))
            }
            ["api", "reload"] => {
                call.posts()?;
                let by = self.guard.may_change(call.headers(), call.peer)?;
                by.changes("configuration", &"as it was read last", &"to be read again");
                Ok(self.reload())
            }
            ["debug", "profile"] => {
                // Nothing is changed, but it takes as long as it takes, and shows what only operators should see.
                let by = self.guard.may_change(call.headers(), call.peer)?;
                if call.head().method != Method::GET {
                    return Err(call.only("GET"));
                }
                profile::profile(call.parameter("seconds").as_deref(), by).await
            }
            ["api", "explain"] => {
                call.posts()?;
                explain::explain(&self.view, call.json().await?)
            }
            ["api", "log-level"] => match *call.method() {
                Method::GET => level::look(),
                Method::PUT => {
                    let by = self.guard.may_change(call.headers(), call.peer)?;
                    level::put(&call.json().await?, by)
                }
                _ => Err(call.only("GET, HEAD, PUT")),
            },
            ["api", "limits"] => call.reads().map(|()| json(&Limits::of(&self.view))),
            ["api", "stats"] => call.reads().map(|()| json(&Stats::of(&self.view))),
            ["api", "history"] => call.reads().map(|()| json(&*locked(self.view.history()))),
            ["api", "upstreams"] => call.reads().map(|()| json(&Upstreams::of(&self.view))),
            ["api", "limits", name, "keys"] => {
                call.reads()?;
                self.guard.may_see_keys(call.headers(), call.peer)?;
                top::keys(&self.view, name, call.parameter("by"), call.parameter("top")).await
            }
            ["api", "limits", name, "keys", key] => match *call.method() {
                Method::GET => {
                    self.guard.may_see_keys(call.headers(), call.peer)?;
                    keys::look(steering, name, key).await
                }
                Method::DELETE => {
                    let by = self.guard.may_change(call.headers(), call.peer)?;
                    keys::reset(steering, name, key, by).await
                }
                _ => Err(call.only("GET, HEAD, DELETE")),
            },
            ["api", "limits", name, "overrides"] => {
                call.reads()?;
                self.guard.may_see_keys(call.headers(), call.peer)?;
                keys::overrides(steering, name)
            }
            ["api", "limits", name, "overrides", key] => match *call.method() {
                Method::PUT => {
                    let by = self.guard.may_change(call.headers(), call.peer)?;
                    keys::give(steering, name, key, call.json().await?, by).await
                }
                Method::DELETE => {
                    let by = self.guard.may_change(call.headers(), call.peer)?;
                    keys::take_back(steering, name, key, by).await
                }
                _ => Err(call.only("PUT, DELETE")),
            },
            _ => Err(refusal(
                StatusCode::NOT_FOUND,
                "there is no such page: / is the dashboard, /metrics and /api/limits, /api/stats, /api/upstreams are for programs",
            )),
        }
    }

    /// The trace of a question.
    fn trace<B>(&self, call: &Call<B>) -> Trace {
        Trace::question(self.view.shared(), call.peer.ip(), call.head())
    }

    /// Reads the configuration again.
    fn reload(&self) -> Reply {
        let Some(reloader) = self.view.reloader() else {
            return problem(
                StatusCode::CONFLICT,
                "the proxy runs without a file, so there is none to read again",
            );
        };
        let (status, content_type, body) = match reloader.ask() {
            Ok(applied) => {
                let mut told = json!({"outcome": "applied", "limits": applied.limits, "kept": applied.kept});
                if let (Some(told), false) = (told.as_object_mut(), applied.kept.is_empty()) {
                    let detail = format!("{} can't change before the next start", applied.kept.join(", "));
                    told.insert("detail".to_owned(), detail.into());
                }
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

    fn readyz(&self) -> Reply {
        match self.view.unready() {
            None => response(StatusCode::OK, TEXT, "ok\n"),
            Some(why) => problem(StatusCode::SERVICE_UNAVAILABLE, why),
        }
    }

    /// Prometheus's text, or OpenMetrics for who asks for it.
    fn metrics<B>(&self, call: &Call<B>) -> Reply {
        let open = call.headers().get_all(header::ACCEPT).iter().any(|accept| {
            accept.to_str().is_ok_and(|accept| accept.contains("application/openmetrics-text"))
        });
        let format = if open { Format::OpenMetrics } else { Format::Prometheus };
        match expose(self.view.snapshot(), format) {
            Ok(page) => response(StatusCode::OK, format.content_type(), page),
            Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written"),
        }
    }
}

/// The answer to a question that is told of.
fn told(mut trace: Trace, reply: Reply) -> Reply {
    trace.end(reply.status());
    reply
}

/// The dashboard, which may do what it says itself.
fn page() -> Reply {
    let mut response = response(StatusCode::OK, HTML, PAGE.html.clone());
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, PAGE.policy.clone());
    response
}
