//! Proxy.

mod answer;
mod deadlines;
mod decide;
mod exchange;
mod fault;
mod state;
mod upstream;

pub mod config;
pub mod facts;
pub mod identity;
pub mod path;
pub mod policy;
pub mod server;
pub mod telemetry;

pub use answer::{Answers, DenialBody};
pub use fault::{Fault, Side};
pub use state::{Shared, Timeouts};
pub use upstream::{Target, TargetError};
