//! `GET /api/limits`: the limits as they were configured, with what they said so far.

use std::collections::BTreeMap;

use serde::Serialize;

use super::view::View;
use crate::config::{LimitConfig, Match};
use crate::telemetry::LimitGauges;
use crate::telemetry::metrics::LimitTotals;

/// All of them.
#[derive(Debug, Serialize)]
pub(super) struct Limits {
    limits: Vec<LimitView>,
}

#[derive(Debug, Serialize)]
struct LimitView {
    name: String,
    mode: &'static str,
    algorithm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<String>,
    /// Units or permits a key has at most.
    capacity: u32,
    /// Empty: one bucket for all.
    key: Vec<String>,
    #[serde(rename = "match")]
    matches: MatchView,
    decisions: BTreeMap<&'static str, u64>,
    near_limit: u64,
    /// Keys that have not fully recovered, if this process knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<usize>,
    keys_overflowed: u64,
}

/// What a limit applies to; all that is said must hold.
#[derive(Debug, Default, Serialize)]
struct MatchView {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    /// Names only: the values may be secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    query: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    jwt: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    client_ip: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not: Option<Box<Self>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    /// Names of the entries, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptors: Option<Vec<String>>,
}

impl Limits {
    /// As they are now.
    pub(super) fn of(view: &View) -> Self {
        let totals = view.shared().metrics.totals();
        let gauges = view.gauges().limits;
        let counted = |name: &str| {
            let totals = totals.limits.iter().find(|totals| &*totals.name == name).cloned();
            let gauges = gauges.iter().find(|gauge| &*gauge.name == name).cloned();
            (totals.unwrap_or_default(), gauges.unwrap_or_default())
        };
        let limit = |config: &LimitConfig| LimitView::new(config, &counted(config.limit.name()));
        Self { limits: view.rules().limits.iter().map(limit).collect() }
    }
}

impl LimitView {
    fn new(config: &LimitConfig, (totals, gauges): &(LimitTotals, LimitGauges)) -> Self {
        let LimitConfig { limit, off, matches, key, .. } = config;
        let spec = limit.spec();
        Self {
            name: limit.name().to_owned(),
            mode: View::mode(limit, *off),
            algorithm: spec.algorithm.to_string(),
            rate: spec.rate.map(|rate| rate.to_string()),
            capacity: limit.capacity(),
            key: key.iter().map(ToString::to_string).collect(),
            matches: MatchView::new(matches),
            decisions: totals.by_word(),
            near_limit: totals.near,
            keys: gauges.keys,
            keys_overflowed: gauges.overflowed,
        }
    }
}

impl MatchView {
    fn new(matches: &Match) -> Self {
        let Match { path, methods, host, headers, query, jwt, client_ip, not, domain, descriptors } = matches;
        Self {
            path: path.as_ref().map(ToString::to_string),
            methods: methods.iter().map(ToString::to_string).collect(),
            host: host.as_ref().map(ToString::to_string),
            headers: headers.iter().map(|(name, _)| name.to_string()).collect(),
            query: query.iter().map(|(name, _)| name.clone()).collect(),
            jwt: jwt.iter().map(|(claim, _)| claim.clone()).collect(),
            client_ip: client_ip.iter().map(ToString::to_string).collect(),
            not: not.as_ref().map(|not| Box::new(Self::new(not))),
            domain: domain.clone(),
            descriptors: descriptors
                .as_ref()
                .map(|entries| entries.iter().map(|(name, _)| name.clone()).collect()),
        }
    }
}
