//! One limit shared by all replicas, through Redis or Valkey.
//!
//! ```no_run
//! use ratelimit_core::{Limit, Limiter};
//! use ratelimit_redis::RedisStore;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let limiter = Limiter::new(RedisStore::connect("redis://127.0.0.1:6379").await?);
//! let per_user = Limit::new("per-user", "100/s".parse()?).burst(200);
//! let decision = limiter.check(&per_user, "ann").await?;
//! # let _ = decision.is_allowed();
//! # Ok(())
//! # }
//! ```
//!
//! # How a decision travels
//!
//! ```text
//! try_decide ── known to be denied, or the store is gone ──▶ answered here    denied, fallback
//!     │
//! decide ─▶ queue ─▶ batch ─▶ script ─▶ reply ─▶ verdict                      dispatch, batch, wire
//!                              │
//!                  one TIME, one MGET, decisions in order, one write a key    scripts/decide.lua, takes.lua
//! ```
//!
//! In a Cluster there is a queue for each of 16 partitions of the keys, each on its way to the node that serves it;
//! a request whose keys lie in several is charged in each and given back where one refuses (`reserve.rs`).
//!
//! One task owns the connection; by default it has a thread, so that callers on many runtimes meet in one queue.
//! Decisions that wait at the same moment travel in one call of the script, two of which are under way at once; a
//! decision that finds nothing under way is sent at once. The answers of a batch are handed out within the runtime that
//! waits for them (`couriers.rs`), which is woken once for all of them.
//!
//! # What holds
//!
//! The bounds of [`ratelimit_core::algorithm`], exactly, over all replicas: the script computes what the core's
//! steps compute, in integers, by the store's clock. What that comes to when the store fails stands in the
//! README of this crate, row by row.
//!
//! # What this crate does not do
//!
//! Retry. A call that was not answered may have been carried out; asking again could charge twice.

mod batch;
mod breaker;
mod calendar;
mod calls;
mod config;
mod connection;
mod couriers;
mod denied;
mod dispatch;
mod error;
mod fallback;
mod grants;
mod health;
mod keys;
mod link;
mod nodes;
mod notes;
mod partition;
mod partitions;
mod permits;
mod redirect;
mod reserve;
mod script;
mod shape;
mod shared;
mod store;
mod survey;
mod topology;
mod wire;

pub mod lease;

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tests")]
mod lua_is_rust;

pub use calls::Call;
pub use config::{Builder, OnFailure};
pub use notes::{Board, Note};
pub use shared::Troubles;
pub use store::RedisStore;

/// For the fuzzer: reads any bytes as a reply of the script's.
#[cfg(fuzzing)]
pub use wire::fuzzed::reply as fuzz_reply;

/// The Rust of this crate's README, compiled as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
