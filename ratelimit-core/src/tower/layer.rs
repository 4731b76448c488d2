//! [`RateLimitLayer`]: the limits of a service and how they read its requests.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use tower_layer::Layer;

use super::config::{Config, Rule};
use super::error::LayerError;
use super::key::IntoKey;
use super::service::RateLimit;
use crate::decision::Decision;
use crate::fields::Fields;
use crate::limit::Limit;
use crate::limiter::Limiter;
use crate::time::{Clock, SystemClock};

/// Puts limits in front of a service; see the [module](super) for what happens to a request.
///
/// Cheap to clone; clones, and the services they make, share the counters. `S` is the store, `B` the body of
/// the requests, which the compiler infers from the service.
///
/// Several limits are decided together, all or nothing:
///
/// ```
/// # use http::Request;
/// # use ratelimit_core::tower::{RateLimitLayer, key};
/// # use ratelimit_core::{Limit, Limiter, MemoryStore};
/// # fn main() -> Result<(), ratelimit_core::RateError> {
/// let layer = RateLimitLayer::new(
///     Limiter::new(MemoryStore::default()),
///     Limit::new("per-address", "100/s".parse()?),
/// )
/// .key(key::peer_ip)
/// .and(Limit::new("uploads", "1000000/h".parse()?), |req: &Request<_>| {
///     req.headers().get("x-api-key").cloned()
/// })
/// .cost(|req| req.headers().get("content-length").and_then(|n| n.to_str().ok()?.parse().ok()).unwrap_or(1))
/// .and(Limit::concurrency("at-once", 50), |_: &Request<_>| ())
/// .skip(|req| req.uri().path() == "/healthz");
/// # let _: RateLimitLayer<_, String> = layer;
/// # Ok(())
/// # }
/// ```
pub struct RateLimitLayer<S, B> {
    config: Arc<Config<S, B>>,
}

impl<S, B> RateLimitLayer<S, B> {
    /// One limit, which counts all requests together until [`key`](Self::key) says by what.
    #[must_use]
    pub fn new(limiter: Limiter<S>, limit: Limit) -> Self {
        let clock = Arc::new(SystemClock::default());
        Self { config: Arc::new(Config::new(limiter, Rule::of(limit, |_| ()), clock)) }
    }

    /// What the limit named last counts by: anything that is a key, or a `Result` of it; see
    /// [`key`](super::key).
    #[must_use]
    pub fn key<K: IntoKey>(self, key: impl Fn(&Request<B>) -> K + Send + Sync + 'static) -> Self {
        self.last(|rule| rule.key = Arc::new(move |request, to| key(request).write(to)))
    }

    /// Another limit with its key. A request is admitted when all limits admit it, and charged to all or none.
    #[must_use]
    pub fn and<K: IntoKey>(
        self,
        limit: Limit,
        key: impl Fn(&Request<B>) -> K + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.rules.push(Rule::of(limit, key)))
    }

    /// Another quota for some requests, such as a plan's; `None`: the limit as it is. Make it by
    /// [`Limit::with_quota`] of the limit named last, beforehand, so that what was used stays used when a
    /// key's quota changes.
    #[must_use]
    pub fn quota(self, quota: impl Fn(&Request<B>) -> Option<Limit> + Send + Sync + 'static) -> Self {
        self.last(|rule| rule.quota = Some(Arc::new(quota)))
    }

    /// How many units of the limit named last a request uses up; 1 unless said otherwise. A request that costs
    /// more than the limit can ever hold is answered 413.
    #[must_use]
    pub fn cost(self, cost: impl Fn(&Request<B>) -> u32 + Send + Sync + 'static) -> Self {
        self.last(|rule| rule.cost = Some(Arc::new(cost)))
    }

    /// Which requests no limit is asked about.
    #[must_use]
    pub fn skip(self, skip: impl Fn(&Request<B>) -> bool + Send + Sync + 'static) -> Self {
        self.with(|config| config.skip = Some(Arc::new(skip)))
    }

    /// Makes the answer to a denied request, gRPC or not. The fields and `Retry-After`, unless it is there
    /// already, are added to it.
    #[must_use]
    pub fn on_denied<T: Into<Bytes>>(
        self,
        answer: impl Fn(&Decision<'_>, &Request<B>) -> Response<T> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| {
            config.on_denied =
                Some(Arc::new(move |decision, request| answer(decision, request).map(Into::into)));
        })
    }

    /// Makes the answer to a request that could not be judged; `None` lets it through.
    #[must_use]
    pub fn on_error<T: Into<Bytes>>(
        self,
        answer: impl Fn(&LayerError, &Request<B>) -> Option<Response<T>> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| {
            config.on_error =
                Some(Arc::new(move |error, request| Some(answer(error, request)?.map(Into::into))));
        })
    }

    /// Which fields responses carry; [`Fields::default`] unless said otherwise.
    #[must_use]
    pub fn fields(self, fields: Fields) -> Self {
        self.with(|config| config.fields = fields)
    }

    /// The clock by which an `x-ratelimit-reset` in [epoch form](crate::fields::ResetFormat::Epoch) is told:
    /// the machine's, unless said otherwise. Limits go by their store's.
    #[must_use]
    pub fn clock(self, clock: impl Clock) -> Self {
        self.with(|config| config.clock = Arc::new(clock))
    }

    fn last(self, change: impl FnOnce(&mut Rule<B>)) -> Self {
        self.with(|config| config.rules.last_mut().map_or((), change))
    }

    fn with(self, change: impl FnOnce(&mut Config<S, B>)) -> Self {
        let mut config = Arc::unwrap_or_clone(self.config);
        change(&mut config);
        Self { config: Arc::new(config.with_policy()) }
    }
}

impl<B> Rule<B> {
    fn of<K: IntoKey>(limit: Limit, key: impl Fn(&Request<B>) -> K + Send + Sync + 'static) -> Self {
        Self { limit, key: Arc::new(move |request, to| key(request).write(to)), quota: None, cost: None }
    }
}

impl<S, B> Clone for RateLimitLayer<S, B> {
    // Derived, it would ask for `S: Clone` and `B: Clone`.
    fn clone(&self) -> Self {
        Self { config: Arc::clone(&self.config) }
    }
}

impl<S, B> fmt::Debug for RateLimitLayer<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.config.rules.iter().map(|rule| rule.limit.name());
        f.debug_tuple("RateLimitLayer").field(&names.collect::<Vec<_>>()).finish()
    }
}

impl<Svc, S, B> Layer<Svc> for RateLimitLayer<S, B> {
    type Service = RateLimit<Svc, S, B>;

    fn layer(&self, inner: Svc) -> Self::Service {
        RateLimit::new(inner, Arc::clone(&self.config))
    }
}
