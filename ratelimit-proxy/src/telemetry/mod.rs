//! What the operator is told: counters, and lines of a log.

mod exposition;
pub mod histogram;
pub mod log;
pub mod metrics;
mod process;
mod store;
pub(crate) mod top;

pub(crate) use exposition::{Format, Gauges, LimitGauges, ServerGauges, expose};
pub(crate) use process::Reading as Process;
pub(crate) use store::{Answered, StoreCalls, StoreGauges};
