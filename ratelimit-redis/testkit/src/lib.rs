//! Real servers for tests: each on a free port, in a directory of its own, ended when it is dropped (also by a
//! panic). Nothing here is published.

#![expect(clippy::disallowed_methods, reason = "tests wait for real processes by real clocks")]

mod relay;
mod server;

pub use relay::Relay;
pub use server::{Program, Server};
