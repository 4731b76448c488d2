//! Real servers for tests: each on a free port, in a directory of its own, ended when it is dropped (also by a
//! panic). Nothing here is published.

mod server;

pub use server::{Program, Server};
