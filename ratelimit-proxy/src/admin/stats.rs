//! `GET /api/stats`: the running proxy in numbers, for the dashboard and for programs. Sums and snapshots that are
//! there anyway: asking costs those who serve nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use ratelimit_core::time::Clock as _;
use serde::Serialize;

use super::upstreams::Upstreams;
use super::view::View;
use crate::doubts::Doubt;
use crate::telemetry::histogram::Distribution;
use crate::telemetry::metrics::{CODE_CLASSES, LimitTotals, Pressure, ProtocolError, Reloaded, Totals};
use crate::telemetry::{Answered, Gauges, LimitGauges, Process, StoreGauges};

type Counts = BTreeMap<&'static str, u64>;

/// All of it. Counters count from the start of the process and never go back.
#[derive(Debug, Serialize)]
pub(super) struct Stats {
    /// Seconds since the Unix epoch.
    time: f64,
    version: &'static str,
    /// Of the configuration: another number, other limits.
    edition: u64,
    /// Why new connections are not welcome, if they are not.
    unready: Option<&'static str>,
    /// Requests answered, by class of status.
    requests: Counts,
    connections: Connections,
    seconds: Seconds,
    limits: Vec<LimitStats>,
    store: StoreStats,
    #[serde(flatten)]
    upstreams: Upstreams,
    /// What is likely wrong with the configuration.
    warnings: Vec<Doubt>,
    troubles: Troubles,
    process: Process,
}

#[derive(Debug, Serialize)]
struct Connections {
    open: u64,
    max: usize,
}

/// How long things took, counted by size.
#[derive(Debug, Serialize)]
struct Seconds {
    /// Upper bounds in seconds; what is longer is counted last.
    bounds: Vec<f64>,
    /// From a request's head to its response's end.
    request: Sizes,
    /// To the head of the upstream's response.
    upstream: Sizes,
    /// What requests waited for what their limits say.
    decision: Sizes,
}

#[derive(Debug, Serialize)]
struct Sizes {
    counts: Vec<u64>,
    sum: f64,
}

#[derive(Debug, Serialize)]
struct LimitStats {
    name: Box<str>,
    decisions: Counts,
    near_limit: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<usize>,
    keys_overflowed: u64,
}

/// Where counters live.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum StoreStats {
    Memory,
    Redis {
        consistency: &'static str,
        up: bool,
        replicas: u32,
        requests: Counts,
        seconds: Sizes,
        posts_lost: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        leased_tokens: Option<u64>,
    },
}

/// What should not happen, counted.
#[derive(Debug, Serialize)]
struct Troubles {
    protocol_errors: Counts,
    connections_full: u64,
    accept_errors: u64,
    requests_shed: u64,
    reloads: Counts,
    panics: u64,
    task_restarts: u64,
    log_lines_lost: u64,
}

impl Stats {
    /// As they are now.
    pub(super) fn of(view: &View) -> Self {
        let shared = view.shared();
        let (totals, gauges, rules) = (shared.metrics.totals(), view.gauges(), view.rules());
        Self {
            time: Duration::from_nanos(shared.clock.utc().get()).as_secs_f64(),
            version: env!("CARGO_PKG_VERSION"),
            edition: rules.edition(),
            unready: view.unready(),
            requests: CODE_CLASSES.into_iter().zip(totals.classes).collect(),
            connections: Connections { open: totals.connections, max: gauges.max_connections },
            seconds: Seconds {
                bounds: totals
                    .requests
                    .buckets()
                    .iter()
                    .map(|(bound, _)| *bound)
                    .filter(|bound| bound.is_finite())
                    .collect(),
                request: Sizes::of(&totals.requests),
                upstream: Sizes::of(&totals.upstream),
                decision: Sizes::of(&totals.decisions),
            },
            limits: limits(&totals, &gauges),
            store: gauges.store.as_ref().map_or(StoreStats::Memory, StoreStats::of),
            upstreams: Upstreams::of(view),
            warnings: shared.doubts.now(),
            troubles: Troubles::of(&totals, &gauges),
            process: Process::now(),
        }
    }
}

fn limits(totals: &Totals, gauges: &Gauges) -> Vec<LimitStats> {
    // Both are in the order of the rules; a reload may come between them.
    let gauged: BTreeMap<&str, &LimitGauges> =
        gauges.limits.iter().map(|gauge| (&*gauge.name, gauge)).collect();
    let limit = |totals: &LimitTotals| LimitStats {
        name: totals.name.clone(),
        decisions: totals.by_word(),
        near_limit: totals.near,
        keys: gauged.get(&*totals.name).and_then(|gauge| gauge.keys),
        keys_overflowed: gauged.get(&*totals.name).map_or(0, |gauge| gauge.overflowed),
    };
    totals.limits.iter().map(limit).collect()
}

impl Sizes {
    fn of(all: &Distribution) -> Self {
        Self { counts: all.buckets().iter().map(|(_, count)| *count).collect(), sum: all.seconds() }
    }
}

impl StoreStats {
    fn of(store: &StoreGauges) -> Self {
        let StoreGauges { up, replicas, lost_posts, leased_tokens, .. } = *store;
        Self::Redis {
            consistency: if leased_tokens.is_some() { "leased" } else { "strict" },
            up,
            replicas,
            requests: Answered::ALL.iter().map(|(how, word)| (*word, store.requests(*how))).collect(),
            seconds: Sizes::of(&store.calls.seconds),
            posts_lost: lost_posts,
            leased_tokens,
        }
    }
}

impl Troubles {
    fn of(totals: &Totals, gauges: &Gauges) -> Self {
        let words =
            |all: &[(ProtocolError, &'static str)]| all.iter().map(|(_, word)| *word).collect::<Vec<_>>();
        Self {
            protocol_errors: words(&ProtocolError::ALL).into_iter().zip(totals.errors).collect(),
            connections_full: totals.pressure(Pressure::Full),
            accept_errors: totals.pressure(Pressure::Starved),
            requests_shed: totals.pressure(Pressure::Shed),
            reloads: Reloaded::ALL.iter().map(|(_, word)| *word).zip(totals.reloads).collect(),
            panics: totals.panics,
            task_restarts: totals.restarts,
            log_lines_lost: gauges.log_lost,
        }
    }
}
