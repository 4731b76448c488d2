//! [`RateLimit`]: a service behind limits.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::answer::{self, Next};
use super::body::Body;
use super::config::Config;
use super::future::ResponseFuture;
use crate::store::Store;

/// A service behind limits; made by [`RateLimitLayer`](super::RateLimitLayer).
pub struct RateLimit<Svc, S, B> {
    inner: Svc,
    config: Arc<Config<S, B>>,
}

impl<Svc, S, B> RateLimit<Svc, S, B> {
    pub(super) const fn new(inner: Svc, config: Arc<Config<S, B>>) -> Self {
        Self { inner, config }
    }

    /// The service behind the limits.
    pub const fn inner(&self) -> &Svc {
        &self.inner
    }
}

impl<Svc, S, B, T> Service<Request<B>> for RateLimit<Svc, S, B>
where
    Svc: Service<Request<B>, Response = Response<T>> + Clone,
    S: Store,
{
    type Response = Response<Body<T>>;
    type Error = Svc::Error;
    type Future = ResponseFuture<Svc, S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let config = &self.config;
        if config.skip.as_ref().is_some_and(|skip| skip(&request)) {
            return ResponseFuture::unlimited(self.inner.call(request));
        }
        let asked = match config.ask(&request) {
            Ok(asked) => asked,
            Err(error) => {
                let next = answer::not_judged(config, error.into(), &request);
                return ResponseFuture::next(next, &mut self.inner, request);
            }
        };
        let Some(verdict) = config.limiter.store().try_decide(&asked.charges()) else {
            let asked = asked.into_owned();
            // The service that said it was ready goes along; the clone in its place may not be.
            let clone = self.inner.clone();
            let ready = mem::replace(&mut self.inner, clone);
            return ResponseFuture::asking(Arc::clone(config), asked, ready, request);
        };
        let next: Next<S, B> = answer::judged(config, &asked, verdict, &mut request);
        ResponseFuture::next(next, &mut self.inner, request)
    }
}

impl<Svc: Clone, S, B> Clone for RateLimit<Svc, S, B> {
    // Derived, it would ask for `S: Clone` and `B: Clone`.
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), config: Arc::clone(&self.config) }
    }
}

impl<Svc: fmt::Debug, S, B> fmt::Debug for RateLimit<Svc, S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit").field("inner", &self.inner).finish_non_exhaustive()
    }
}
