//! One limit shared by all replicas, through Redis or Valkey.

mod batch;
mod breaker;
mod calendar;
mod config;
mod connection;
mod denied;
mod dispatch;
mod error;
mod fallback;
mod keys;
mod permits;
mod script;
mod shape;
mod shared;
mod store;
mod topology;
mod wire;

pub mod lease;

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tests")]
mod lua_is_rust;

pub use config::{Builder, OnFailure};
pub use shared::Troubles;
pub use store::RedisStore;
