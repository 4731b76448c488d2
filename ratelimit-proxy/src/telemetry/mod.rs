//! What the operator is told: counters, lines of a log, traces.

mod exposition;
mod families;
pub mod histogram;
pub mod log;
pub mod metrics;
pub(crate) mod otlp;
mod process;
pub(crate) mod profile;
mod store;
pub(crate) mod top;
pub(crate) mod trace;

pub(crate) use exposition::{Format, expose};
pub(crate) use families::{Gauges, LimitGauges, ServerGauges, Snapshot};
pub(crate) use process::Reading as Process;
pub(crate) use store::{Answered, StoreCalls, StoreGauges};
