//! One limit shared by all replicas, through Redis or Valkey.
//!
//! This crate has no code yet: it holds the place of the shared store, which will implement
//! `ratelimit_core::store::Store` and so take the memory store's place in a `Limiter`, in the tower
//! layer and in the proxy without any other change. Until then `store: {redis: …}` is refused by the
//! proxy's configuration with the words "not available yet".

pub mod lease;
