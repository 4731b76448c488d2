//! The limits asked over HTTP by other programs: `POST /json`, Envoy's question as JSON; `POST /api/check`, about one
//! key of one limit; `/auth`, see [`super::auth`]. Decisions are no change of state that would need a token: keep
//! the listener to those who may ask.

use http::StatusCode;
use http::header::{self, HeaderValue};
use ratelimit_core::{Decision, Fields, KeyBuf, Nanos};
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{JSON, Reply, problem, response};
use super::routes::Routes;
use crate::decide::{Ruling, decide, denied};
use crate::fault::Fault;
use crate::policy::{How, NotNamed, WrittenPart};
use crate::rls::{self, Question, Refused};
use crate::telemetry::trace::Trace;

/// Most bytes of a question.
pub(super) const MOST_ASKED: usize = 1024 * 1024;

/// What is asked of one key of one limit.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    limit: String,
    #[serde(default)]
    key: Key,
    cost: Option<u32>,
    domain: Option<String>,
}

/// A key: a part, or all of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Key {
    One(Part),
    All(Vec<Part>),
}

impl Default for Key {
    fn default() -> Self {
        Self::All(Vec::new())
    }
}

/// A part of a key: its value, `null` where a request would have none, or `{"header.x-api-key": "…"}` to say which of
/// several sources it is from.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Part {
    Text(String),
    Number(i64),
    Missing(()),
    From(std::collections::BTreeMap<String, String>),
}

impl Routes {
    /// Envoy's question.
    pub(super) async fn json(&self, body: &[u8], trace: &mut Trace) -> Reply {
        let question = match Question::from_json(body) {
            Ok(question) => question,
            Err(why) => return problem(StatusCode::BAD_REQUEST, &why),
        };
        match rls::ask(self.view().shared(), self.counted(), &question, None, trace).await {
            Ok(answer) => {
                let status = if rls::json::is_over_limit(&answer) {
                    StatusCode::TOO_MANY_REQUESTS
                } else {
                    StatusCode::OK
                };
                response(status, JSON, rls::json::of(&answer).to_string())
            }
            Err(refused @ (Refused::Undecided | Refused::Overloaded)) => {
                problem(StatusCode::SERVICE_UNAVAILABLE, &refused.to_string())
            }
            Err(refused) => problem(StatusCode::BAD_REQUEST, &refused.to_string()),
        }
    }

    /// About one key of one limit.
    pub(super) async fn check(&self, body: &[u8], trace: &mut Trace) -> Reply {
        let asked: Check = match serde_json::from_slice(body) {
            Ok(asked) => asked,
            Err(error) => return problem(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let parts = match &asked.key {
            Key::One(part) => std::slice::from_ref(part),
            Key::All(parts) => parts,
        };
        let given: Vec<WrittenPart> = parts.iter().map(Part::written).collect();
        trace.deciding();
        let shared = self.view().shared();
        let rules = shared.rules.load();
        let mut keys = KeyBuf::new();
        let named = rules.policy.named(&asked.limit, &given, asked.domain.as_deref(), &mut keys);
        let (mut selection, met) = match named {
            Ok(named) => named,
            Err(fault) => {
                let status = match fault {
                    NotNamed::Limit => StatusCode::NOT_FOUND,
                    NotNamed::Off | NotNamed::Concurrency => StatusCode::CONFLICT,
                    _ => StatusCode::UNPROCESSABLE_ENTITY,
                };
                return problem(status, &fault.to_string());
            }
        };
        if let (Some(cost), Some(hit)) = (asked.cost, selection.hits.first_mut()) {
            hit.cost = cost;
            hit.how = if cost == 0 { How::Ask } else { How::Charge };
        }
        if !met.denied.is_empty() {
            let decision = denied(&met.denied, self.counted());
            trace.denied(&decision);
            return self.decided(&asked.limit, &decision);
        }
        let ruling = decide(&shared.store, &selection, &keys, self.counted()).await;
        trace.decided(&ruling);
        match ruling {
            Ruling::Admit(admission) => {
                let decision = admission.unfollowed(&shared.store);
                match decision {
                    Some(decision) => self.decided(&asked.limit, &decision),
                    // Nothing counts the key.
                    None => {
                        let told = json!({"allowed": true, "limit": asked.limit, "unlimited": true});
                        response(StatusCode::OK, JSON, told.to_string())
                    }
                }
            }
            Ruling::Deny(decision) => self.decided(&asked.limit, &decision),
            Ruling::Never(_) => {
                let detail = "the cost is more than the limit can ever hold";
                problem(StatusCode::PAYLOAD_TOO_LARGE, detail)
            }
            Ruling::Undecided => unavailable(Fault::Undecided),
        }
    }

    /// A decision as JSON, with the fields that clients are told.
    fn decided(&self, limit: &str, decision: &Decision<'_>) -> Reply {
        let shared = self.view().shared();
        let rules = shared.rules.load();
        let mut told = json!({
            "allowed": decision.is_allowed(),
            "limit": limit,
            "remaining": decision.remaining(),
            "reset_after": seconds(decision.reset_after()),
        });
        if let (Some(wait), Value::Object(told)) = (decision.retry_after(), &mut told) {
            told.insert("retry_after".to_owned(), seconds(wait).into());
        }
        let status = if decision.is_allowed() { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS };
        let mut response = response(status, JSON, told.to_string());
        rules.answers.fields.write_with(
            decision,
            None,
            Fields::retry_after(decision),
            shared.utc(&rules),
            response.headers_mut(),
        );
        response
    }
}

/// Why nobody can say.
pub(super) fn unavailable(fault: Fault) -> Reply {
    let mut response = problem(fault.status(), fault.detail());
    if let Some(seconds) = fault.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

pub(super) fn not_allowed(methods: &'static str) -> Reply {
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "this is asked for with another method");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

impl Part {
    fn written(&self) -> WrittenPart {
        let (source, value) = match self {
            Self::Text(text) => (None, Some(text.clone())),
            Self::Number(number) => (None, Some(number.to_string())),
            Self::Missing(()) => (None, None),
            Self::From(from) => from
                .first_key_value()
                .map_or((None, None), |(source, value)| (Some(source.clone()), Some(value.clone()))),
        };
        WrittenPart { source, value: value.map(String::into_bytes) }
    }
}

/// Seconds, with what is behind the point.
fn seconds(time: Nanos) -> f64 {
    std::time::Duration::from_nanos(time.get()).as_secs_f64()
}
