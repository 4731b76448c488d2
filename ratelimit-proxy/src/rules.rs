//! [`Rules`]: what a configuration says about requests, and what a reload replaces as a whole.
//!
//! There is one set of rules in force for all threads ([`Current`]); each thread holds on to the set that it saw
//! last ([`Adopted`]) and looks at one number to learn that there is another. A request keeps the set it began with
//! to its end. A set is gone with the last request that began under it.
//!
//! Overrides that operators give while the proxy runs are part of the set: a change of them makes another one, which
//! shares nearly all with the one before. So does a server's name that leads to another address.

use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::answer::Answers;
use crate::config::{Config, LimitConfig, RlsConfig};
use crate::identity::token::TokenVerifier;
use crate::policy::Policy;
use crate::state::Timeouts;
use crate::steer::Book;
use crate::telemetry::log::RequestLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Sampling;
use crate::upstream::{Local, Upstreams};

/// What a configuration says about requests.
#[derive(Clone)]
pub(crate) struct Rules {
    /// Which limits apply to which request.
    pub(crate) policy: Policy,
    /// The limits as they were written, switched-off ones included.
    pub(crate) limits: Arc<[LimitConfig]>,
    /// Where requests go.
    pub(crate) upstreams: Upstreams,
    /// How long to wait for whom.
    pub(crate) timeouts: Timeouts,
    /// What a client is told.
    pub(crate) answers: Answers,
    /// What is written about requests.
    pub(crate) log: Arc<RequestLog>,
    /// Which of them are traced.
    pub(crate) sampling: Sampling,
    /// How long what is likely wrong has to show before it is told; `None`: nobody looks.
    pub(crate) doubted_after: Option<Duration>,
    /// How Envoy is answered.
    pub(crate) rls: Option<RlsConfig>,
    /// Who verifies tokens; `None` if nobody does. Shared with the rules before where nothing was said differently, so that
    /// its keys and what it has verified stay.
    pub(crate) tokens: Option<Arc<TokenVerifier>>,
    /// Which configuration they are from, from 0.
    edition: u64,
    /// Which set of rules this is, from 0.
    generation: u64,
}

impl Rules {
    /// The first ones. Who verifies tokens has a thread and is started apart.
    pub(crate) fn first(config: &Config, metrics: &Metrics) -> Self {
        Self::new(config, metrics, RequestLog::new(config.log), None)
    }

    /// Those after these, with tokens verified by that one.
    pub(crate) fn next(
        &self,
        config: &Config,
        tokens: Option<Arc<TokenVerifier>>,
        metrics: &Metrics,
    ) -> Self {
        Self { tokens, ..Self::new(config, metrics, self.log.again(config.log), Some(self)) }
    }

    fn new(config: &Config, metrics: &Metrics, log: RequestLog, before: Option<&Self>) -> Self {
        let policy = Policy::of(config);
        let names: Vec<&str> = policy.rules().iter().map(|rule| rule.limit.name()).collect();
        let series = metrics.number(&names);
        Self {
            upstreams: Upstreams::new(config, before.map(|before| &before.upstreams)),
            policy: policy.counted_as(series),
            limits: config.limits.as_slice().into(),
            timeouts: config.server.timeouts,
            answers: config.answers.clone(),
            log: Arc::new(log),
            sampling: Sampling::of(config.otlp.as_ref()),
            doubted_after: config.log.doubts,
            rls: config.rls.clone(),
            tokens: None,
            edition: before.map_or(0, |before| before.edition + 1),
            generation: before.map_or(0, |before| before.generation + 1),
        }
    }

    /// Which configuration they are from.
    pub(crate) fn edition(&self) -> u64 {
        self.edition
    }

    /// These with other overrides.
    fn overridden(self, book: &Book) -> Self {
        Self { policy: self.policy.overridden(|rule| book.of(rule)), ..self }
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
    /// The overrides that are part of them. Held while they are replaced, so that one thread at a time does.
    book: Mutex<Arc<Book>>,
    /// Told when others come into force.
    changes: Arc<Notify>,
}

impl Current {
    /// These.
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            generation: AtomicU64::new(rules.generation),
            rules: ArcSwap::from_pointee(rules),
            book: Mutex::default(),
            changes: Arc::default(),
        }
    }

    /// They.
    pub(crate) fn load(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Puts others in force, made of those, with the overrides that there are.
    pub(crate) fn replace(&self, make: impl FnOnce(&Rules) -> Rules) {
        let book = self.locked();
        self.put(make(&self.rules.load()).overridden(&book));
    }

    /// Puts other overrides in force.
    pub(crate) fn steer(&self, book: Arc<Book>) {
        let mut current = self.locked();
        let rules = Rules::clone(&self.rules.load());
        self.put(Rules { generation: rules.generation + 1, ..rules }.overridden(&book));
        *current = book;
    }

    /// The same, with servers where their names lead now.
    pub(crate) fn readdress(&self) {
        let _book = self.locked();
        let rules = Rules::clone(&self.rules.load());
        let upstreams = rules.upstreams.readdressed();
        self.put(Rules { generation: rules.generation + 1, upstreams, ..rules });
    }

    /// The same, with tokens verified by that one.
    pub(crate) fn verify_by(&self, tokens: TokenVerifier) {
        let _book = self.locked();
        let rules = Rules::clone(&self.rules.load());
        self.put(Rules { generation: rules.generation + 1, tokens: Some(Arc::new(tokens)), ..rules });
    }

    /// The overrides that are in force.
    pub(crate) fn book(&self) -> Arc<Book> {
        Arc::clone(&self.locked())
    }

    fn locked(&self) -> MutexGuard<'_, Arc<Book>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only who holds the book may do so.
    fn put(&self, rules: Rules) {
        let generation = rules.generation;
        self.rules.store(Arc::new(rules));
        // Pairs with the load of who sees the new number: it must find the new rules, or it would not look again.
        self.generation.store(generation, Ordering::Release);
        self.changes.notify_one();
    }

    /// What is told when others come into force, for the one who waits for that.
    pub(crate) fn changes(&self) -> Arc<Notify> {
        Arc::clone(&self.changes)
    }

    /// Which ones they are.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        // As cheap as a relaxed load where it matters; see `put`.
        self.generation.load(Ordering::Acquire)
    }
}

/// Rules as one thread holds them, with what the thread has of their upstreams: handed on without a write that
/// another thread could feel.
#[derive(Clone)]
pub(crate) struct Adopted(Rc<Own>);

struct Own {
    rules: Arc<Rules>,
    local: Local,
}

impl Adopted {
    /// Those; `before` is what the thread held.
    pub(crate) fn new(rules: Arc<Rules>, before: Option<&Self>) -> Self {
        let local = match before {
            Some(before) => Local::new(&rules.upstreams, before.local()),
            None => Local::new(&rules.upstreams, &Local::default()),
        };
        Self(Rc::new(Own { rules, local }))
    }

    /// What the thread has of their upstreams.
    #[inline]
    pub(crate) fn local(&self) -> &Local {
        &self.0.local
    }
}

impl Deref for Adopted {
    type Target = Rules;

    fn deref(&self) -> &Rules {
        &self.0.rules
    }
}
