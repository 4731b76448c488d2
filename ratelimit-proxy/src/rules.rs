//! [`Rules`]: what a configuration says about requests, and what a reload replaces as a whole.
//!
//! There is one set of rules in force for all threads ([`Current`]); each thread holds on to the set that it saw
//! last ([`Adopted`]) and looks at one number to learn that there is another. A request keeps the set it began with
//! to its end. A set is gone with the last request that began under it.

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::answer::Answers;
use crate::config::{Config, LimitConfig, RlsConfig};
use crate::policy::Policy;
use crate::state::Timeouts;
use crate::telemetry::log::RequestLog;
use crate::telemetry::metrics::Metrics;
use crate::upstream::Target;

/// What a configuration says about requests.
pub(crate) struct Rules {
    /// Which limits apply to which request.
    pub(crate) policy: Policy,
    /// The limits as they were written, switched-off ones included.
    pub(crate) limits: Vec<LimitConfig>,
    /// Where requests go.
    pub(crate) upstream: Target,
    /// Another number for another place where requests go: connections to the last one are of no use.
    pub(crate) destination: u64,
    /// How long to wait for whom.
    pub(crate) timeouts: Timeouts,
    /// What a client is told.
    pub(crate) answers: Answers,
    /// What is written about requests.
    pub(crate) log: RequestLog,
    /// How Envoy is answered.
    pub(crate) rls: Option<RlsConfig>,
    /// Which set of rules this is, from 0.
    generation: u64,
}

impl Rules {
    /// The first ones.
    pub(crate) fn first(config: &Config, metrics: &Metrics) -> Self {
        Self::new(config, metrics, RequestLog::new(config.log), 0, 0)
    }

    /// Those after these.
    pub(crate) fn next(&self, config: &Config, metrics: &Metrics) -> Self {
        let moved = self.upstream.to_string() != config.upstream.to_string();
        let destination = self.destination + u64::from(moved);
        Self::new(config, metrics, self.log.again(config.log), self.generation + 1, destination)
    }

    fn new(config: &Config, metrics: &Metrics, log: RequestLog, generation: u64, destination: u64) -> Self {
        let policy = Policy::of(config);
        let names: Vec<&str> = policy.rules().iter().map(|rule| rule.limit.name()).collect();
        let series = metrics.number(&names);
        Self {
            policy: policy.counted_as(series),
            limits: config.limits.clone(),
            upstream: config.upstream.clone(),
            destination,
            timeouts: config.server.timeouts,
            answers: config.answers.clone(),
            log,
            rls: config.rls,
            generation,
        }
    }

    /// Which set of rules this is.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
}

/// The rules in force.
pub(crate) struct Current {
    rules: ArcSwap<Rules>,
    /// That of `rules`, or for a moment of those before.
    generation: AtomicU64,
}

impl Current {
    /// These.
    pub(crate) fn new(rules: Rules) -> Self {
        Self { generation: AtomicU64::new(rules.generation), rules: ArcSwap::from_pointee(rules) }
    }

    /// They.
    pub(crate) fn load(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Puts others in force. Only one thread at a time may do so.
    pub(crate) fn replace(&self, rules: Rules) {
        let generation = rules.generation;
        self.rules.store(Arc::new(rules));
        // Pairs with the load of who sees the new number: it must find the new rules, or it would not look again.
        self.generation.store(generation, Ordering::Release);
    }

    /// Which ones they are.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        // As cheap as a relaxed load where it matters; see `replace`.
        self.generation.load(Ordering::Acquire)
    }
}

/// Rules as one thread holds them: handed on without a write that another thread could feel.
#[derive(Clone)]
#[expect(clippy::redundant_allocation, reason = "counting on an `Arc` would be felt by other threads")]
pub(crate) struct Adopted(Rc<Arc<Rules>>);

impl Adopted {
    /// Those.
    pub(crate) fn new(rules: Arc<Rules>) -> Self {
        Self(Rc::new(rules))
    }
}

impl Deref for Adopted {
    type Target = Rules;

    fn deref(&self) -> &Rules {
        &self.0
    }
}
