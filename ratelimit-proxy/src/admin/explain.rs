//! `POST /api/explain`: what the command `explain` tells, of the limits in force, what operators changed included.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;

use super::reply::{Answer, json, refusal};
use super::view::View;
use crate::explain::Question;

/// A request to be explained.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// GET if absent.
    method: Option<String>,
    /// With its query, or a URL.
    path: String,
    /// By name; a list for a field on several lines.
    #[serde(default)]
    headers: BTreeMap<String, Lines>,
    /// Where its connection comes from; 127.0.0.1 if absent.
    #[serde(alias = "client")]
    client_ip: Option<IpAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Lines {
    One(String),
    Several(Vec<String>),
}

/// What the limits make of it.
pub(super) fn explain(view: &View, asked: Asked) -> Answer {
    let Asked { method, path, headers, client_ip } = asked;
    let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (name, lines) in &headers {
        let bad =
            || refusal(StatusCode::BAD_REQUEST, &format!("{name:?} is no header field with such a value"));
        let field = HeaderName::try_from(name).map_err(|_| bad())?;
        let lines = match lines {
            Lines::One(line) => std::slice::from_ref(line),
            Lines::Several(lines) => lines,
        };
        for line in lines {
            fields.push((field.clone(), HeaderValue::try_from(line).map_err(|_| bad())?));
        }
    }
    let client = client_ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let question = Question::new(method.as_deref().unwrap_or("GET"), &path, fields, client)
        .map_err(|fault| refusal(StatusCode::BAD_REQUEST, &fault))?;
    let rules = view.rules();
    let tokens = rules.tokens.as_deref();
    let explanation = question.explain(&rules.policy, tokens, view.redis()).map_err(|fault| {
        let detail = format!("the proxy would answer {}: {}", fault.status(), fault.detail());
        refusal(StatusCode::UNPROCESSABLE_ENTITY, &detail)
    })?;
    Ok(json(&explanation))
}
