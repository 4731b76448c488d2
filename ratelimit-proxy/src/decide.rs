//! Asks the store about the limits a request was matched to: [`Selection`] in, [`Ruling`] out. Counts what
//! they said. The only file of the proxy that decides anything about a limit.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use ratelimit_core::algorithm::{Op, Outcome, Receipt};
use ratelimit_core::store::{Charge, Origin, Verdict};
use ratelimit_core::{Decision, KeyBuf, Limit, Nanos, Store, StoreError};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::config::Late;
use crate::fault::Fault;
use crate::policy::{Ending, Hit, How, Refusal, Selection};
use crate::store::AnyStore;
use crate::telemetry::metrics::{DecisionOutcome, WorkerMetrics};
use crate::telemetry::top::Event;

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
    /// What is to be given back or settled when the request is over.
    pub(crate) holds: Vec<Hold>,
}

impl<'p> Admission<'p> {
    /// For who will never learn how the request ends: what is held is settled as for a client that went away.
    pub(crate) fn unfollowed(self, store: &impl Store) -> Option<Box<Decision<'p>>> {
        self.holds.into_iter().for_each(|hold| hold.settle(&Ending::default(), store));
        self.decision
    }
}

/// What a request holds of a limit until it is over: a permit, or a charge that its end decides about.
#[derive(Debug)]
pub(crate) struct Hold {
    limit: Limit,
    key: KeyBuf,
    units: u32,
    /// Where the charge was made; a debit has none.
    receipt: Option<Receipt>,
    /// `None` for a permit.
    late: Option<Arc<Late>>,
    actual: Option<u32>,
}

impl Hold {
    /// Learns what a head or trailers of the response say about the cost.
    pub(crate) fn hear(&mut self, headers: &HeaderMap) {
        if let Some(said) = self.late.as_ref().and_then(|late| late.actual.as_ref()?.read(headers)) {
            self.actual = Some(said);
        }
    }

    /// Gives back what was held too much, or charges what was held too little. Of a charge, only what time has
    /// not given back already can be given back.
    pub(crate) fn settle(self, ending: &Ending, store: &impl Store) {
        let charged = self.late.as_ref().map_or(0, |late| late.charge(self.units, ending, self.actual));
        let op = if charged > self.units {
            Op::Debit(charged - self.units)
        } else if charged < self.units {
            Op::Refund(self.units - charged, self.receipt)
        } else {
            return;
        };
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
    decide_by(store, selection, keys, metrics, async |charges| store.decide(charges).await).await
}

/// As [`decide`], for who can't wait for the store as long as the store's own deadline says.
pub(crate) async fn decide_within<'p>(
    within: Duration,
    store: &AnyStore,
    selection: &Selection<'p>,
    keys: &KeyBuf,
    metrics: &WorkerMetrics,
) -> Ruling<'p> {
    let ask = async |charges: &[Charge<'_>]| match tokio::time::timeout(within, store.decide(charges)).await {
        Ok(answer) => answer,
        Err(_) => store.without(charges),
    };
    decide_by(store, selection, keys, metrics, ask).await
}

/// `ask` is how the store is asked where it has to be waited for.
#[inline]
async fn decide_by<'p, S: Store>(
    store: &S,
    selection: &Selection<'p>,
    keys: &KeyBuf,
    metrics: &WorkerMetrics,
    ask: impl AsyncFnOnce(&[Charge<'_>]) -> Result<Verdict, StoreError>,
) -> Ruling<'p> {
    let charges = charges(selection, keys, metrics);
    if let Some(ruling) = at_once(store, &charges, selection, keys, metrics) {
        return ruling;
    }
    let asked = Instant::now();
    let answer = ask(&charges).await;
    metrics.decided_after(asked.elapsed());
    answered(store, answer, selection, keys, metrics)
}

/// What the store is asked.
#[inline(always)] // Made where it stays: moving 400 bytes would take as long as deciding.
fn charges<'a>(
    selection: &'a Selection<'_>,
    keys: &'a KeyBuf,
    metrics: &WorkerMetrics,
) -> SmallVec<[Charge<'a>; 4]> {
    selection.shadowed.iter().for_each(|rule| metrics.decision(*rule, DecisionOutcome::ShadowDenied));
    let mut charges = SmallVec::new();
    // Pushed, not collected: what is collected is moved as a whole once more.
    for hit in &selection.hits {
        let op = match hit.how {
            // Nothing is refused only to a key in debt.
            How::Charge => Op::Take(if hit.overdraft { 0 } else { hit.cost }),
            How::Ask => Op::Peek(1),
            How::GiveBack => Op::Refund(hit.cost, None),
        };
        charges.push(Charge { limit: hit.limit, key: keys.slice(hit.key.clone()), op });
    }
    charges
}

/// The ruling, where nobody has to be waited for.
#[inline]
fn at_once<'p>(
    store: &impl Store,
    charges: &[Charge<'_>],
    selection: &Selection<'p>,
    keys: &KeyBuf,
    metrics: &WorkerMetrics,
) -> Option<Ruling<'p>> {
    if charges.is_empty() {
        return Some(Ruling::Admit(Admission { decision: None, holds: Vec::new() }));
    }
    decide_at_once(store, charges, selection, keys, metrics)
}

/// The ruling on what the store answered.
fn answered<'p>(
    store: &impl Store,
    answer: Result<Verdict, StoreError>,
    selection: &Selection<'p>,
    keys: &KeyBuf,
    metrics: &WorkerMetrics,
) -> Ruling<'p> {
    match answer {
        Ok(verdict) => rule(store, &verdict, selection, keys, metrics),
        Err(_unavailable) => {
            selection.hits.iter().for_each(|hit| metrics.decision(hit.rule, DecisionOutcome::FailedClosed));
            Ruling::Undecided
        }
    }
}

/// Apart from what may wait, whose state would have room for the verdict all the time.
fn decide_at_once<'p>(
    store: &impl Store,
    charges: &[Charge<'_>],
    selection: &Selection<'p>,
    keys: &KeyBuf,
    metrics: &WorkerMetrics,
) -> Option<Ruling<'p>> {
    let mut verdict = Verdict::empty();
    if !store.try_decide_into(charges, &mut verdict) {
        return None;
    }
    metrics.decided_at_once();
    Some(rule(store, &verdict, selection, keys, metrics))
}

fn rule<'p>(
    store: &impl Store,
    verdict: &Verdict,
    selection: &Selection<'p>,
    keys: &KeyBuf,
    metrics: &WorkerMetrics,
) -> Ruling<'p> {
    count(verdict, &selection.hits, keys, metrics);
    if verdict.origin == Origin::FailedClosed {
        return Ruling::Undecided;
    }
    let hits = selection.hits.iter().zip(&verdict.outcomes);
    let never = hits.clone().any(|(hit, outcome)| outcome.is_never() && !hit.limit.is_shadow());
    let holds = if verdict.admitted {
        let hold = |(hit, outcome): (&Hit<'p>, &Outcome)| {
            let key = keys.slice(hit.key.clone());
            if hit.overdraft && hit.cost > 0 && hit.how == How::Charge {
                store.post(Charge { limit: hit.limit, key, op: Op::Debit(hit.cost) });
            }
            if hit.late.is_none() && !(hit.holds && hit.cost > 0) {
                return None;
            }
            let mut owned = KeyBuf::new();
            ratelimit_core::AsKey::encode(&key, &mut owned);
            Some(Hold {
                limit: hit.limit.clone(),
                key: owned,
                units: hit.cost,
                receipt: (!hit.overdraft).then_some(outcome.receipt),
                late: hit.late.cloned(),
                actual: None,
            })
        };
        // A shadow limit that is full admits without charging anything.
        hits.filter(|(_, outcome)| outcome.admitted).filter_map(hold).collect()
    } else {
        Vec::new()
    };
    let decision = Decision::boxed(selection.hits.iter().map(|hit| hit.limit), verdict);
    match (verdict.admitted, never) {
        (true, _) => Ruling::Admit(Admission { decision: Some(decision), holds }),
        (false, true) => Ruling::Never(decision),
        (false, false) => Ruling::Deny(decision),
    }
}

/// Limits that said no without their store: as if the store had.
pub(crate) fn refuse<'p>(refusal: &Refusal<'p>, metrics: &WorkerMetrics) -> Result<Ruling<'p>, Fault> {
    match refusal {
        Refusal::Denied(by) => Ok(Ruling::Deny(Box::new(denied(by, metrics)))),
        Refusal::AmbiguousKey { .. } => Err(Fault::AmbiguousKey),
        Refusal::BadCost { .. } => Err(Fault::BadCost),
    }
}

/// The decision of limits that said no without their store; there is one at least.
pub(crate) fn denied<'p>(by: &[(usize, &'p Limit)], metrics: &WorkerMetrics) -> Decision<'p> {
    let no = |(rule, limit): &(usize, &'p Limit)| {
        metrics.decision(*rule, DecisionOutcome::Denied);
        // Nothing frees such a key in time; a client that asks again once a window loses little.
        let wait = limit.window_seconds().map_or(Nanos::from_secs(1), Nanos::from_secs);
        Outcome::refused(0, Some(wait)).with_reset_after(wait)
    };
    let outcomes = by.iter().map(no).collect();
    let verdict = Verdict { admitted: false, origin: Origin::Store, outcomes };
    Decision::new(by.iter().map(|(_, limit)| *limit), verdict)
}

/// Of a denied request only the limits that said no are counted: the others were not charged.
fn count(verdict: &Verdict, hits: &[Hit<'_>], keys: &KeyBuf, metrics: &WorkerMetrics) {
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
        if matches!(counted, DecisionOutcome::Denied | DecisionOutcome::ShadowDenied) {
            metrics.top.saw(hit.rule, Event::Denied, keys.slice(hit.key.clone()));
        }
        if outcome.admitted && u64::from(outcome.remaining()) * 5 < u64::from(hit.limit.capacity()) {
            metrics.near_limit(hit.rule);
            metrics.top.saw(hit.rule, Event::Near, keys.slice(hit.key.clone()));
        }
    }
}
