//! `GET /api/history`: the last minutes, so that a dashboard that is opened now shows what was before. A look a second
//! at sums that are there anyway; what is kept is bounded.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use ratelimit_core::time::Clock as _;
use serde::Serialize;

use super::locked;
use super::view::View;
use crate::telemetry::metrics::DecisionOutcome;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(1);
/// Looks that are kept.
const KEPT: usize = 300;
/// Limits that are looked at; the first ones, where there are more.
const LIMITS: usize = 64;

/// The last minutes under the rules in force. Counters count from the start of the process.
#[derive(Debug, Default, Serialize)]
pub(super) struct History {
    edition: u64,
    /// Names of limits, in the order in which looks tell of them.
    limits: Vec<Box<str>>,
    /// The oldest first.
    looks: VecDeque<Look>,
}

#[derive(Debug, Serialize)]
struct Look {
    /// Seconds since the Unix epoch.
    time: f64,
    /// Requests answered.
    requests: u64,
    /// For each limit what it allowed, what it denied, and what it would have denied.
    limits: Box<[[u64; 3]]>,
    /// How long requests took, counted by size as in `/api/stats`; then their upstream, then calls of the store.
    request: Vec<u64>,
    upstream: Vec<u64>,
    store: Vec<u64>,
}

/// Looks once a second, for ever.
pub(super) async fn keep(view: &View) {
    loop {
        look(view, view.history());
        tokio::time::sleep(EVERY).await;
    }
}

fn look(view: &View, history: &Mutex<History>) {
    let (shared, edition) = (view.shared(), view.rules().edition());
    let totals = shared.metrics.totals();
    let sizes =
        |all: &crate::telemetry::histogram::Distribution| all.buckets().iter().map(|(_, n)| *n).collect();
    let shown = || totals.limits.iter().take(LIMITS);
    let limit = |limit: &crate::telemetry::metrics::LimitTotals| {
        use DecisionOutcome::{Allowed, Denied, FailedClosed, FailedOpen, Local, ShadowDenied};
        let said = |outcomes: &[DecisionOutcome]| outcomes.iter().map(|outcome| limit.said(*outcome)).sum();
        [said(&[Allowed, Local, FailedOpen]), said(&[Denied, FailedClosed]), said(&[ShadowDenied])]
    };
    let look = Look {
        time: Duration::from_nanos(shared.clock.utc().get()).as_secs_f64(),
        requests: totals.classes.iter().sum(),
        limits: shown().map(limit).collect(),
        request: sizes(&totals.requests),
        upstream: sizes(&totals.upstream),
        store: shared.store.gauges().map(|store| sizes(&store.calls.seconds)).unwrap_or_default(),
    };
    let mut history = locked(history);
    if history.edition != edition || history.looks.is_empty() {
        let limits = shown().map(|limit| limit.name.clone()).collect();
        *history = History { edition, limits, looks: VecDeque::new() };
    }
    if history.looks.len() >= KEPT {
        history.looks.pop_front();
    }
    history.looks.push_back(look);
}
