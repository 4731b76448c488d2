//! Asks the store about the limits a request was matched to: [`Selection`] in, [`Ruling`] out. Counts what
//! they said. The only file of the proxy that decides anything about a limit.

use ratelimit_core::algorithm::{Op, Receipt};
use ratelimit_core::store::{Charge, Origin, Verdict};
use ratelimit_core::{Decision, KeyBuf, Limit, Store};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::policy::{Hit, Selection};
use crate::telemetry::metrics::{DecisionOutcome, WorkerMetrics};

/// What the limits together said to a request. Decisions are boxed, because they are handed on and large.
#[derive(Debug)]
pub(crate) enum Ruling<'p> {
    /// Yes. The decision is about no limit if none matched.
    Admit(Admission<'p>),
    /// No; the client may ask again later.
    Deny(Box<Decision<'p>>),
    /// No, and it will always be so: the request costs more than a limit can ever hold.
    Never(Box<Decision<'p>>),
    /// The store can't say.
    Undecided,
}

/// A request that may go on.
#[derive(Debug)]
pub(crate) struct Admission<'p> {
    /// What the client is told.
    pub(crate) decision: Option<Box<Decision<'p>>>,
    /// What is to be given back when the request is over.
    pub(crate) permits: Vec<Permit>,
}

/// One permit of a concurrency limit.
#[derive(Debug)]
pub(crate) struct Permit {
    limit: Limit,
    key: KeyBuf,
    units: u32,
    receipt: Receipt,
}

impl Permit {
    /// Gives it back.
    pub(crate) fn release(self, store: &impl Store) {
        let op = Op::Refund(self.units, Some(self.receipt));
        store.post(Charge { limit: &self.limit, key: self.key.key(), op });
    }
}

/// Charges all limits of a selection, or none.
pub(crate) async fn decide<'p, S: Store>(
    store: &S,
    selection: &Selection<'p>,
    keys: &KeyBuf,
    metrics: &WorkerMetrics,
) -> Ruling<'p> {
    selection.shadowed.iter().for_each(|rule| metrics.decision(*rule, DecisionOutcome::ShadowDenied));
    if selection.hits.is_empty() {
        return Ruling::Admit(Admission { decision: None, permits: Vec::new() });
    }
    let charge =
        |hit: &Hit<'p>| Charge { limit: hit.limit, key: keys.slice(hit.key.clone()), op: Op::Take(hit.cost) };
    let charges: SmallVec<[Charge<'_>; 4]> = selection.hits.iter().map(charge).collect();
    if let Some(verdict) = store.try_decide(&charges) {
        metrics.decided_at_once();
        return rule(verdict, selection, keys, metrics);
    }
    let asked = Instant::now();
    let answer = store.decide(&charges).await;
    metrics.decided_after(asked.elapsed());
    match answer {
        Ok(verdict) => rule(verdict, selection, keys, metrics),
        Err(_unavailable) => {
            selection.hits.iter().for_each(|hit| metrics.decision(hit.rule, DecisionOutcome::FailedClosed));
            Ruling::Undecided
        }
    }
}

fn rule<'p>(
    verdict: Verdict,
    selection: &Selection<'p>,
    keys: &KeyBuf,
    metrics: &WorkerMetrics,
) -> Ruling<'p> {
    count(&verdict, &selection.hits, metrics);
    if verdict.origin == Origin::FailedClosed {
        return Ruling::Undecided;
    }
    let hits = selection.hits.iter().zip(&verdict.outcomes);
    let never = hits.clone().any(|(hit, outcome)| outcome.is_never() && !hit.limit.is_shadow());
    let permits = if verdict.admitted {
        let held = |(hit, _): &(&Hit<'p>, _)| hit.holds && hit.cost > 0;
        let permit = |(hit, outcome): (&Hit<'p>, &ratelimit_core::algorithm::Outcome)| {
            let mut key = KeyBuf::new();
            ratelimit_core::AsKey::encode(&keys.slice(hit.key.clone()), &mut key);
            Permit { limit: hit.limit.clone(), key, units: hit.cost, receipt: outcome.receipt }
        };
        // A shadow limit that is full admits without giving a permit away.
        hits.filter(held).filter(|(_, outcome)| outcome.admitted).map(permit).collect()
    } else {
        Vec::new()
    };
    let admitted = verdict.admitted;
    let decision = Box::new(Decision::new(selection.hits.iter().map(|hit| hit.limit), verdict));
    match (admitted, never) {
        (true, _) => Ruling::Admit(Admission { decision: Some(decision), permits }),
        (false, true) => Ruling::Never(decision),
        (false, false) => Ruling::Deny(decision),
    }
}

/// Of a denied request only the limits that said no are counted: the others were not charged.
fn count(verdict: &Verdict, hits: &[Hit<'_>], metrics: &WorkerMetrics) {
    for (hit, outcome) in hits.iter().zip(&verdict.outcomes) {
        let shadow = hit.limit.is_shadow();
        let counted = match (verdict.origin, outcome.admitted) {
            (Origin::FailedOpen, _) => DecisionOutcome::FailedOpen,
            (Origin::FailedClosed, _) => DecisionOutcome::FailedClosed,
            (_, false) if shadow => DecisionOutcome::ShadowDenied,
            (_, false) => DecisionOutcome::Denied,
            (_, true) if !verdict.admitted => continue,
            (Origin::Local, true) => DecisionOutcome::Local,
            (_, true) => DecisionOutcome::Allowed,
        };
        metrics.decision(hit.rule, counted);
        if outcome.admitted && u64::from(outcome.remaining()) * 5 < u64::from(hit.limit.capacity()) {
            metrics.near_limit(hit.rule);
        }
    }
}
