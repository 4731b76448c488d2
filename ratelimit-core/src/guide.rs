//! The handbook: what to choose, what to rely on, and how to test it. Every example in it is run.

#[doc = include_str!("guide/algorithms.md")]
pub mod algorithms {}

#[doc = include_str!("guide/guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("guide/keys.md")]
pub mod keys {}

#[doc = include_str!("guide/costs.md")]
pub mod costs {}

#[cfg(feature = "tokio")]
#[doc = include_str!("guide/waiting.md")]
pub mod waiting {}

#[cfg(all(feature = "tokio", feature = "testing"))]
#[doc = include_str!("guide/testing.md")]
pub mod testing {}

#[cfg(feature = "tower")]
#[doc = include_str!("guide/tower.md")]
pub mod tower {}
