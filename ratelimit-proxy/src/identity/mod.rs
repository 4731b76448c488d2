//! Who a request comes from: [`Identity`], the client's address out of the peer's and what proxies say, which is
//! pure: no clock, no I/O, and every answer is an address, whatever a client wrote. And [`token`], what verified
//! tokens say.

mod client;
pub mod forwarded;
mod networks;
pub mod node;
pub mod token;

pub use client::Identity;
pub(crate) use networks::{Networks, canonical};
