//! What the operator is told.

pub mod metrics;
