//! The proxy: everything but the few lines of the program around it (`main.rs`).

mod admin;
mod answer;
mod app;
mod call;
mod deadlines;
mod decide;
mod doubts;
mod exchange;
mod explain;
mod fault;
mod http1;
mod outgoing;
mod overload;
mod reload;
mod rls;
mod rules;
mod socket;
mod stamp;
mod state;
mod steer;
mod store;
mod supervise;
mod upstream;

pub mod cli;
pub mod config;
pub mod facts;
pub mod identity;
pub mod path;
pub mod policy;
pub mod replay;
pub mod server;
pub mod telemetry;

pub use answer::{Answers, DenialBody};
pub use fault::{Fault, Side};
pub use overload::Memory;
pub use state::{Shared, Timeouts};
pub use store::{AnyStore, SharedStore, Unusable};
pub use upstream::{Target, TargetError, Tls, TlsError, TlsParts};

/// For the fuzzer: answers a question of Envoy's.
#[cfg(fuzzing)]
pub use rls::fuzzed::question as fuzz_question;
/// For the fuzzer: reads a response of an upstream's in two ways and compares.
#[cfg(fuzzing)]
pub use upstream::h1::scripted::fuzz as fuzz_upstream_response;
