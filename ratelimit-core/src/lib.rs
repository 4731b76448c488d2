//! Exact rate limits: token bucket, sliding window, fixed window and concurrency, over a pluggable store.
//!
//! One limit is one line, one decision one call:
//!
//! ```
//! use ratelimit_core::{Limit, Limiter, MemoryStore};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limiter = Limiter::new(MemoryStore::default());
//! let per_user = Limit::new("per-user", "100/s".parse()?).burst(200);
//!
//! let decision = limiter.try_check(&per_user, "ann");
//! assert!(decision.is_allowed());
//! assert_eq!(decision.remaining(), 199);
//! # Ok(())
//! # }
//! ```
//!
//! Several limits are decided together, all or nothing; one denial and none is charged:
//!
//! ```
//! # use ratelimit_core::{Limit, Limiter, MemoryStore, Rate};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let limiter = Limiter::new(MemoryStore::default());
//! let per_user = Limit::new("per-user", Rate::per_second(10));
//! let per_org = Limit::new("per-org", Rate::per_minute(2));
//! let of = [(&per_user, "ann"), (&per_org, "acme")];
//!
//! assert!(limiter.check_all(&of, 2).await?.is_allowed());
//! let denied = limiter.check_all(&of, 1).await?;
//! assert_eq!(denied.limit().map(Limit::name), Some("per-org"));
//! assert!(denied.retry_after().is_some());
//! # Ok(())
//! # }
//! ```
//!
//! In front of a service it is a tower layer, for axum, tonic, hyper and every other (feature `tower`):
//!
//! ```
//! # #[cfg(feature = "tower")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use http::{Request, Response};
//! use ratelimit_core::tower::RateLimitLayer;
//! use ratelimit_core::{Limit, Limiter, MemoryStore};
//! use tower::{ServiceBuilder, service_fn};
//!
//! # let service = service_fn(|_: Request<String>| async { Ok::<_, std::convert::Infallible>(Response::new(String::new())) });
//! # fn api_key<B>(request: &Request<B>) -> Option<String> {
//! #     request.headers().get("x-api-key").and_then(|key| key.to_str().ok()).map(str::to_owned)
//! # }
//! let limiter = Limiter::new(MemoryStore::default());
//! let per_key = Limit::new("per-key", "100/min".parse()?);
//! let app = ServiceBuilder::new()
//!     .layer(RateLimitLayer::new(limiter, per_key).key(|request: &Request<String>| api_key(request)))
//!     .service(service);
//! # let _ = app;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "tower"))] fn main() {}
//! ```
//!
//! # What holds
//!
//! Each [`algorithm`] states a bound on what it admits, with its proof; over the memory store it holds
//! exactly, whatever the number of threads. Arithmetic is in integers, and no limit that can be built overflows
//! it. A denied request costs nothing. Memory is bounded by [`MemoryStore::max_keys`], not by the number of
//! keys clients invent, and no key that is still counted is ever dropped to make room. No background task is
//! needed. Time can be driven by hand ([`ManualClock`]).
//!
//! # What this crate does not do
//!
//! It knows no network. To share a limit between processes, use a store that does (the crate
//! `ratelimit-redis`); to limit a service without touching its code, use the proxy (`ratelimit-proxy`).
//!
//! # Where to go on
//!
//! * [`guide`]: choosing an algorithm, guarantees, keys, waiting, costs known later, testing with time, tower.
//! * [`Limiter`]: everything that can be asked.
//! * [`store`]: how to write a store, and `testing` (feature `testing`), which judges it.

mod decision;
mod error;
mod key;
mod limit;
mod limiter;
mod rate;
mod sync;

pub mod algorithm;
#[cfg(feature = "tower")]
pub mod fields;
pub mod guide;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
#[cfg(feature = "tower")]
pub mod tower;

pub use decision::Decision;
pub use error::{CheckError, StoreError, StoreErrorKind};
#[cfg(feature = "tower")]
pub use fields::{FieldStyle, Fields, ResetFormat};
pub use key::{AsKey, Key, KeyBuf, ReadPart};
pub use limit::{Algorithm, Limit, LimitError, LimitId, LimitSpec, Mode};
pub use limiter::{Limiter, Permit, Reservation};
pub use rate::{MAX_PER_SECOND, MAX_PERIOD_SECONDS, Period, Rate, RateError};
pub use store::{LocalStore, MemoryStore, Overflow, Store};
#[cfg(feature = "tokio")]
pub use time::TokioClock;
pub use time::{ManualClock, Nanos, SystemClock};

/// The Rust of the project's README, run as tests.
#[cfg(all(doctest, feature = "tower", feature = "tokio"))]
#[doc = include_str!("../../README.md")]
struct Readme;
