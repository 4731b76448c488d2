//! One limit shared by all replicas, through Redis or Valkey.

mod batch;
mod breaker;
mod calendar;
mod config;
mod connection;
mod denied;
mod dispatch;
mod error;
mod keys;
mod permits;
mod script;
mod shape;
mod shared;
mod store;
mod topology;
mod wire;

pub use config::{Builder, OnFailure};
pub use shared::Troubles;
pub use store::RedisStore;
