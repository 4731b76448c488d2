//! Envoy's rate-limit service: a [`Question`] in, an answer in Envoy's words out, over gRPC ([`server`]) and as JSON
//! on the administration's listener. Each descriptor becomes the same facts that a request does, all of them
//! together one selection, and that is decided as one: one denial, and nothing is charged.
//!
//! # Bounds
//! Entries have no bound but the size of the message: a client must not be able to make a question one that is
//! refused, since Envoy lets requests through whose question failed. Descriptors are Envoy's own, so there may be
//! [`MOST_DESCRIPTORS`] of them, and they may meet [`MOST_LIMITS`], which is what a store decides at once.

mod answer;
#[cfg(fuzzing)]
#[allow(clippy::expect_used, clippy::panic, reason = "for the fuzzer")]
pub(crate) mod fuzzed;
pub(crate) mod json;
mod question;
mod server;
mod service;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use http::HeaderMap;
use ratelimit_core::{Decision, KeyBuf, Limit};
use smallvec::SmallVec;

pub(crate) use self::question::Question;
pub(crate) use self::server::Rls;

use self::question::Brought;
use crate::decide::{Admission, Ruling, decide, decide_within, denied};
use crate::facts::{Descriptor, Facts};
use crate::policy::{Policy, Selection};
use crate::rules::Rules;
use crate::state::Shared;
use crate::telemetry::metrics::{DecisionOutcome, Questioned, WorkerMetrics};
use crate::telemetry::trace::Trace;

/// Most descriptors of a question.
const MOST_DESCRIPTORS: usize = 1000;
/// Most limits that a question may meet.
const MOST_LIMITS: usize = 64;

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It names no domain.
    NoDomain,
    /// It has too many descriptors, or they meet too many limits.
    TooMany,
    /// The quota that a descriptor brings along makes no sense.
    Quota,
    /// The store can't say.
    Undecided,
    /// There is no memory for it.
    Overloaded,
}

/// What one descriptor met.
struct Met<'p> {
    /// Its limits among those of the selection.
    hits: Range<usize>,
    /// Those that said no without a store.
    denied: SmallVec<[(usize, &'p Limit); 2]>,
    /// Whether something frees it.
    unlimited: bool,
}

/// Answers a question, counts what became of it, and waits for the store no longer than `within`.
pub(crate) async fn ask(
    shared: &Shared,
    metrics: &WorkerMetrics,
    question: &Question,
    within: Option<Duration>,
    trace: &mut Trace,
) -> Result<RateLimitResponse, Refused> {
    let answer = attempt(shared, metrics, question, within, trace).await;
    metrics.question(match &answer {
        Ok((_, became)) => *became,
        Err(Refused::NoDomain | Refused::TooMany | Refused::Quota) => Questioned::Invalid,
        Err(Refused::Undecided | Refused::Overloaded) => Questioned::Undecided,
    });
    answer.map(|(answer, _)| answer)
}

async fn attempt(
    shared: &Shared,
    metrics: &WorkerMetrics,
    question: &Question,
    within: Option<Duration>,
    trace: &mut Trace,
) -> Result<(RateLimitResponse, Questioned), Refused> {
    if question.domain.is_empty() {
        return Err(Refused::NoDomain);
    }
    if question.descriptors.len() > MOST_DESCRIPTORS {
        return Err(Refused::TooMany);
    }
    if shared.memory.is_short() {
        return Err(Refused::Overloaded);
    }
    trace.deciding();
    let rules = shared.rules.load();
    let mut keys = KeyBuf::new();
    let mut brought = Vec::new();
    let mut selection = Selection::default();
    let mut met = select(&rules.policy, question, &mut keys, &mut selection)?;
    bring(question, &rules, &mut selection, &mut met, &mut brought)?;
    for (number, limit) in &brought {
        if let Some(hit) = selection.hits.get_mut(*number) {
            hit.limit = limit;
        }
    }
    let became = if selection.hits.is_empty() && met.iter().all(|met| met.denied.is_empty() && !met.unlimited)
    {
        Questioned::Unmatched
    } else {
        Questioned::Allowed
    };
    let refusing: SmallVec<[(usize, &Limit); 2]> =
        met.iter().flat_map(|met| met.denied.iter().copied()).collect();
    if !refusing.is_empty() {
        // Whatever the others' counters say, they are not asked.
        selection.shadowed.iter().for_each(|rule| metrics.decision(*rule, DecisionOutcome::ShadowDenied));
        let decision = denied(&refusing, metrics);
        trace.denied(&decision);
        rules.log.asked(&decision, &question.domain, None);
        return Ok((answer::unasked(&decision, &met, shared, &rules), Questioned::Denied));
    }
    let (store, within) = (&shared.store, within.or(rules.rls.as_ref().map(|rls| rls.deadline)));
    let ruling = match within {
        Some(within) => decide_within(within, store, &selection, &keys, metrics).await,
        None => decide(store, &selection, &keys, metrics).await,
    };
    trace.decided(&ruling);
    match ruling {
        Ruling::Admit(Admission { decision, .. }) => {
            let decision = decision.as_deref();
            Ok((answer::decided(decision, &met, shared, &rules), became))
        }
        Ruling::Deny(decision) | Ruling::Never(decision) => {
            rules.log.asked(&decision, &question.domain, key_of(&decision, &selection, &keys));
            Ok((answer::decided(Some(&decision), &met, shared, &rules), Questioned::Denied))
        }
        Ruling::Undecided => Err(Refused::Undecided),
    }
}

/// What the descriptors of a question meet.
fn select<'p>(
    policy: &'p Policy,
    question: &Question,
    keys: &mut KeyBuf,
    selection: &mut Selection<'p>,
) -> Result<SmallVec<[Met<'p>; 4]>, Refused> {
    let none = HeaderMap::new();
    let mut all = SmallVec::new();
    for asked in &question.descriptors {
        let entries: SmallVec<[(&[u8], &[u8]); 4]> =
            asked.entries.iter().map(|entry| (&*entry.key, &*entry.value)).collect();
        let descriptor = Descriptor { domain: &question.domain, entries: &entries };
        let start = selection.hits.len();
        // A descriptor has one value of each name, and its cost is a number: nothing of it can be misread.
        let met = policy.meet(&Facts::asked(&descriptor, &none), keys, selection);
        let met = met.map_err(|_| Refused::Undecided)?;
        let (cost, how) = asked.cost(question.hits_addend);
        for hit in selection.hits.iter_mut().skip(start) {
            (hit.cost, hit.how) = (cost, how);
        }
        if selection.hits.len() > MOST_LIMITS {
            return Err(Refused::TooMany);
        }
        all.push(Met { hits: start..selection.hits.len(), denied: met.denied, unlimited: met.unlimited });
    }
    Ok(all)
}

/// The limits of descriptors that bring a quota along, with that quota and the number of their hit. A quota of
/// nothing denies.
fn bring<'p>(
    question: &Question,
    rules: &Rules,
    selection: &mut Selection<'p>,
    met: &mut [Met<'p>],
    brought: &mut Vec<(usize, Limit)>,
) -> Result<(), Refused> {
    let most = rules.rls.as_ref().and_then(|rls| rls.max_override);
    for (asked, met) in question.descriptors.iter().zip(met) {
        let Some(own) = asked.limit else { continue };
        let quota = own.quota(most);
        for number in met.hits.clone() {
            let Some(hit) = selection.hits.get(number) else { continue };
            match quota {
                Brought::Senseless => return Err(Refused::Quota),
                Brought::Nothing if hit.limit.is_shadow() => selection.shadowed.push(hit.rule),
                Brought::Nothing => met.denied.push((hit.rule, hit.limit)),
                Brought::Rate(rate) => {
                    let limit = hit.limit.with_quota(rate, None).map_err(|_| Refused::Quota)?;
                    brought.push((number, limit));
                }
            }
        }
    }
    Ok(())
}

/// The key of the limit that binds.
fn key_of<'k>(
    decision: &Decision<'_>,
    selection: &Selection<'_>,
    keys: &'k KeyBuf,
) -> Option<ratelimit_core::Key<'k>> {
    let binding = decision.limit()?.id();
    let hit = selection.hits.iter().find(|hit| hit.limit.id() == binding)?;
    Some(keys.slice(hit.key.clone()))
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoDomain => "the question names no domain",
            Self::TooMany => "the question has more than 1000 descriptors, or meets more than 64 limits",
            Self::Quota => "the limit that a descriptor brings along is no quota",
            Self::Undecided => "the rate limits can't be checked at the moment",
            Self::Overloaded => "the proxy is short of memory",
        })
    }
}
