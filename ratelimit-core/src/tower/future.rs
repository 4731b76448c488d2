//! [`ResponseFuture`]: from the question to the response.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::answer::{self, Admitted, Next};
use super::body::Body;
use super::config::{Asked, Config};
use crate::error::{CheckError, StoreError};
use crate::store::{Store, Verdict};

pin_project! {
    /// The future of [`RateLimit`](super::RateLimit). Dropping it gives held permits back.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<Svc, S, B>
    where
        Svc: Service<Request<B>>,
    {
        #[pin]
        state: State<Svc, S, B>,
    }
}

/// Only a decision that is taken elsewhere needs a box: the way there takes longer by orders of magnitude.
type Deciding = Pin<Box<dyn Future<Output = (Asked<'static>, Result<Verdict, StoreError>)> + Send>>;

pin_project! {
    #[project = StateProjection]
    enum State<Svc, S, B>
    where
        Svc: Service<Request<B>>,
    {
        Asking { deciding: Deciding, waiting: Option<Waiting<Svc, S, B>> },
        Inner { #[pin] future: Svc::Future, admitted: Option<Admitted<S, B>> },
        Answer { response: Option<Response<Bytes>> },
    }
}

/// What goes on once the store has answered.
struct Waiting<Svc, S, B> {
    config: Arc<Config<S, B>>,
    /// Has said that it is ready.
    ready: Svc,
    request: Request<B>,
}

impl<Svc: Service<Request<B>>, S, B> ResponseFuture<Svc, S, B> {
    pub(super) const fn unlimited(future: Svc::Future) -> Self {
        Self { state: State::Inner { future, admitted: None } }
    }

    pub(super) fn next(next: Next<S, B>, inner: &mut Svc, request: Request<B>) -> Self {
        Self { state: State::next(next, inner, request) }
    }

    pub(super) fn asking(
        config: Arc<Config<S, B>>,
        asked: Asked<'static>,
        ready: Svc,
        request: Request<B>,
    ) -> Self
    where
        S: Store,
    {
        let limiter = config.limiter.clone();
        let deciding = Box::pin(async move {
            let answer = limiter.store().decide(&asked.charges()).await;
            (asked, answer)
        });
        Self { state: State::Asking { deciding, waiting: Some(Waiting { config, ready, request }) } }
    }
}

impl<Svc: Service<Request<B>>, S, B> State<Svc, S, B> {
    fn next(next: Next<S, B>, inner: &mut Svc, request: Request<B>) -> Self {
        match next {
            Next::Forward(admitted) => Self::Inner { future: inner.call(request), admitted },
            Next::Answer(response) => Self::Answer { response: Some(response) },
        }
    }
}

impl<Svc, S, B, T> Future for ResponseFuture<Svc, S, B>
where
    Svc: Service<Request<B>, Response = Response<T>>,
    S: Store,
{
    type Output = Result<Response<Body<T>>, Svc::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Asking { deciding, waiting } => {
                    let (asked, answer) = ready!(deciding.as_mut().poll(cx));
                    let Some(Waiting { config, mut ready, mut request }) = waiting.take() else {
                        return Poll::Pending;
                    };
                    let next = match answer {
                        Ok(verdict) => answer::judged(&config, &asked, verdict, &mut request),
                        Err(error) => answer::not_judged(&config, CheckError::from(error).into(), &request),
                    };
                    State::next(next, &mut ready, request)
                }
                StateProjection::Inner { future, admitted } => {
                    let response = ready!(future.poll(cx))?;
                    return Poll::Ready(Ok(match admitted.take() {
                        Some(admitted) => admitted.into_response(response),
                        None => response.map(Body::unlimited),
                    }));
                }
                StateProjection::Answer { response } => {
                    // Polled after its end: nothing is left to say.
                    let Some(response) = response.take() else { return Poll::Pending };
                    return Poll::Ready(Ok(response.map(Body::whole)));
                }
            };
            state.set(next);
        }
    }
}
