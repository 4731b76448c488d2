//! What a layer was told to do, and how a request becomes a question to the store.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Request, Response};
use smallvec::SmallVec;

use super::error::LayerError;
use super::key::KeyError;
use crate::algorithm::{Op, Program, Receipt};
use crate::decision::Decision;
use crate::fields::Fields;
use crate::key::{AsKey, KeyBuf};
use crate::limit::Limit;
use crate::limiter::Limiter;
use crate::store::{Charge, Outcomes, Store};
use crate::time::Clock;

pub(super) type KeyFn<B> = Arc<dyn Fn(&Request<B>, &mut KeyBuf) -> Result<(), KeyError> + Send + Sync>;
pub(super) type QuotaFn<B> = Arc<dyn Fn(&Request<B>) -> Option<Limit> + Send + Sync>;
pub(super) type CostFn<B> = Arc<dyn Fn(&Request<B>) -> u32 + Send + Sync>;
pub(super) type SkipFn<B> = Arc<dyn Fn(&Request<B>) -> bool + Send + Sync>;
pub(super) type DeniedFn<B> = Arc<dyn Fn(&Decision<'_>, &Request<B>) -> Response<Bytes> + Send + Sync>;
pub(super) type ErrorFn<B> = Arc<dyn Fn(&LayerError, &Request<B>) -> Option<Response<Bytes>> + Send + Sync>;

/// Shared by all clones of a layer and of its services.
pub(super) struct Config<S, B> {
    pub(super) limiter: Limiter<S>,
    /// Asked together, in this order; at least one.
    pub(super) rules: Vec<Rule<B>>,
    pub(super) skip: Option<SkipFn<B>>,
    pub(super) on_denied: Option<DeniedFn<B>>,
    pub(super) on_error: Option<ErrorFn<B>>,
    pub(super) fields: Fields,
    /// Tells the time that `x-ratelimit-reset` may be written in.
    pub(super) clock: Arc<dyn Clock>,
    /// `RateLimit-Policy`, where it is the same for every request.
    policy: Option<HeaderValue>,
}

/// One limit and how it reads a request.
pub(super) struct Rule<B> {
    pub(super) limit: Limit,
    pub(super) key: KeyFn<B>,
    pub(super) quota: Option<QuotaFn<B>>,
    pub(super) cost: Option<CostFn<B>>,
}

/// A request's question: its keys side by side in one buffer, and for each limit where its key ends.
pub(super) struct Asked<'c> {
    keys: KeyBuf,
    parts: SmallVec<[Part<'c>; 4]>,
}

struct Part<'c> {
    limit: Cow<'c, Limit>,
    end: usize,
    cost: u32,
}

impl<S, B> Config<S, B> {
    pub(super) fn new(limiter: Limiter<S>, rule: Rule<B>, clock: Arc<dyn Clock>) -> Self {
        let fields = Fields::default();
        let config = Self {
            limiter,
            rules: vec![rule],
            skip: None,
            on_denied: None,
            on_error: None,
            fields,
            clock,
            policy: None,
        };
        config.with_policy()
    }

    /// With the policy field made anew, after the rules changed.
    pub(super) fn with_policy(mut self) -> Self {
        let fixed = self.rules.iter().all(|rule| rule.quota.is_none());
        let limits: Vec<Limit> = self.rules.iter().map(|rule| rule.limit.clone()).collect();
        self.policy = if fixed { Fields::policy(&limits.iter().collect::<Vec<_>>()) } else { None };
        self
    }

    /// Adds what the decision says to a response.
    pub(super) fn tell<T>(
        &self,
        decision: &Decision<'_>,
        retry_after: Option<u64>,
        response: &mut Response<T>,
    ) {
        let headers = response.headers_mut();
        self.fields.write_with(decision, self.policy.as_ref(), retry_after, self.clock.utc(), headers);
    }

    pub(super) fn ask(&self, request: &Request<B>) -> Result<Asked<'_>, KeyError> {
        let mut asked = Asked { keys: KeyBuf::new(), parts: SmallVec::new() };
        for rule in &self.rules {
            (rule.key)(request, &mut asked.keys)?;
            let limit = match rule.quota.as_ref().and_then(|quota| quota(request)) {
                Some(other) => Cow::Owned(other),
                None => Cow::Borrowed(&rule.limit),
            };
            let cost = rule.cost.as_ref().map_or(1, |cost| cost(request));
            asked.parts.push(Part { limit, end: asked.keys.len(), cost });
        }
        Ok(asked)
    }
}

impl<S, B> Clone for Config<S, B> {
    // Derived, it would ask for `B: Clone`.
    fn clone(&self) -> Self {
        Self {
            limiter: self.limiter.clone(),
            rules: self.rules.clone(),
            skip: self.skip.clone(),
            on_denied: self.on_denied.clone(),
            on_error: self.on_error.clone(),
            fields: self.fields,
            clock: Arc::clone(&self.clock),
            policy: self.policy.clone(),
        }
    }
}

impl<B> Clone for Rule<B> {
    fn clone(&self) -> Self {
        Self {
            limit: self.limit.clone(),
            key: Arc::clone(&self.key),
            quota: self.quota.clone(),
            cost: self.cost.clone(),
        }
    }
}

impl Asked<'_> {
    pub(super) fn charges(&self) -> SmallVec<[Charge<'_>; 4]> {
        let mut start = 0;
        let mut charges = SmallVec::new();
        for part in &self.parts {
            let key = self.keys.slice(start..part.end);
            charges.push(Charge { limit: &part.limit, key, op: Op::Take(part.cost) });
            start = part.end;
        }
        charges
    }

    pub(super) fn limits(&self) -> impl Iterator<Item = &Limit> {
        self.parts.iter().map(|part| &*part.limit)
    }

    pub(super) fn into_owned(self) -> Asked<'static> {
        let own = |part: Part<'_>| Part {
            limit: Cow::Owned(part.limit.into_owned()),
            end: part.end,
            cost: part.cost,
        };
        Asked { keys: self.keys, parts: self.parts.into_iter().map(own).collect() }
    }

    /// The permits among what was charged, which are given back when what this returns is dropped.
    pub(super) fn hold<S: Store>(&self, limiter: &Limiter<S>, outcomes: &Outcomes) -> Option<Held> {
        let counts_permits = |limit: &Limit| matches!(limit.program(), Program::Concurrency(_));
        if !self.limits().any(counts_permits) {
            return None;
        }
        let mut permits = SmallVec::new();
        for (charge, outcome) in self.charges().iter().zip(outcomes) {
            // A shadow limit that is full admits without giving a permit away.
            let (Op::Take(count @ 1..), true) = (charge.op, outcome.admitted) else { continue };
            if counts_permits(charge.limit) {
                let mut key = KeyBuf::new();
                charge.key.encode(&mut key);
                permits.push(Permit { limit: charge.limit.clone(), key, count, receipt: outcome.receipt });
            }
        }
        Some(Box::new(Permits { limiter: limiter.clone(), permits }))
    }
}

/// Permits of whatever store; dropping it gives them back.
pub(super) type Held = Box<dyn Send + Sync>;

struct Permits<S: Store> {
    limiter: Limiter<S>,
    permits: SmallVec<[Permit; 1]>,
}

struct Permit {
    limit: Limit,
    key: KeyBuf,
    count: u32,
    receipt: Receipt,
}

impl<S: Store> Drop for Permits<S> {
    fn drop(&mut self) {
        for permit in &self.permits {
            let op = Op::Refund(permit.count, Some(permit.receipt));
            self.limiter.store().post(Charge { limit: &permit.limit, key: permit.key.key(), op });
        }
    }
}
