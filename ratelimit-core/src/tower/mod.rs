//! Rate limits for any [tower](https://docs.rs/tower) service that takes HTTP requests: axum, tonic, hyper.
//!
//! ```
//! use http::{Request, Response, StatusCode};
//! use ratelimit_core::tower::{RateLimitLayer, key};
//! use ratelimit_core::{Limit, Limiter, MemoryStore};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limiter = Limiter::new(MemoryStore::default());
//! let per_user = Limit::new("per-user", "2/min".parse()?);
//!
//! let app = ServiceBuilder::new()
//!     .layer(RateLimitLayer::new(limiter, per_user).key(|req: &Request<_>| req.headers().get("x-user").cloned()))
//!     .service(service_fn(async |_: Request<String>| {
//!         Ok::<_, std::convert::Infallible>(Response::new("done".to_owned()))
//!     }));
//!
//! let ask = || Request::builder().header("x-user", "ann").body(String::new()).unwrap();
//! assert_eq!(app.clone().oneshot(ask()).await?.headers()["ratelimit"], r#""per-user";r=1;t=30"#);
//! assert_eq!(app.clone().oneshot(ask()).await?.status(), StatusCode::OK);
//! assert_eq!(app.clone().oneshot(ask()).await?.status(), StatusCode::TOO_MANY_REQUESTS);
//! # Ok(())
//! # }
//! ```
//!
//! # A request's way
//! 1. [`skip`](RateLimitLayer::skip) may let it by, unlimited and uncounted.
//! 2. Each limit gets its key, quota and cost from the request, and all are asked together, all or nothing.
//!    Over a store in this process that happens in `call`, without a boxed future.
//! 3. *Allowed:* the [`Decision<'static>`](crate::Decision) goes into the request's extensions, and the
//!    response gets the [fields](crate::fields). Permits of concurrency limits are held until the response's
//!    body has ended, whether it was read to its end, failed or was dropped.
//! 4. *Denied:* the inner service is not called. The answer is 429 with `Retry-After` and
//!    `application/problem+json`; for gRPC it is a response of status 200 with `grpc-status: 8`, because its
//!    clients read a 429 as "unavailable" and try again. The decision lies in the response's extensions.
//!    [`on_denied`](RateLimitLayer::on_denied) makes another.
//! 5. *Not decided:* 503 when the store can't answer, 413 when the cost is more than a limit can ever hold,
//!    400 or 500 when there is no key. The [`LayerError`] lies in the response's extensions, in an `Arc`.
//!    [`on_error`](RateLimitLayer::on_error) makes another answer, or lets the request through.
//!
//! The error type is the inner service's: whatever a limit says is a response.
//!
//! # What it can't do
//! A permit is not held beyond the response's body: for an upgraded connection (WebSocket) hold a
//! [`Permit`](crate::Permit) in the task that serves it. And the layer asks the inner service for readiness
//! first, as every service does that is not to drop requests: a layer inside that makes callers wait
//! (`tower::limit::ConcurrencyLimit`) makes denials wait too; put it inside a `tower::buffer` or
//! `load_shed` if that matters.

mod answer;
mod body;
mod config;
mod error;
mod future;
pub mod key;
mod layer;
mod service;

pub use body::Body;
pub use error::LayerError;
pub use future::ResponseFuture;
pub use key::{IntoKey, KeyError, PeerAddr};
pub use layer::RateLimitLayer;
pub use service::RateLimit;
