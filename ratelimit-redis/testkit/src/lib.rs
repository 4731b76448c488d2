//! Real servers for tests: each on a free port, in a directory of its own, ended when it is dropped (also by a
//! panic). Nothing here is published.

#![expect(clippy::disallowed_methods, reason = "tests wait for real processes by real clocks")]

mod certificates;
mod cluster;
mod relay;
mod sentinel;
mod server;

pub use certificates::Certificates;
pub use cluster::Cluster;
pub use relay::Relay;
pub use sentinel::Sentinels;
pub use server::{Program, Server};
