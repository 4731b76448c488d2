//! Where requests go: upstreams, their servers, and the connections that lead there.
//!
//! * `target.rs`: what a URL says; connecting;
//! * `group.rs`: what a configuration says, made of servers that live on across reloads;
//! * `server.rs`: one server, and whether it works, as all threads know it;
//! * `names.rs`: where a server's name leads; `resolve.rs` looks it up;
//! * `health.rs`: asks servers whether they work;
//! * `watch.rs`: the thread that does both;
//! * `balance.rs`: which of them is taken (pure);
//! * `local.rs`: what one thread has of all that: its idle connections and whose turn it is;
//! * `retry.rs`: how much may be tried again (pure);
//! * `connect.rs`, `socket.rs`, `tls.rs`: TCP, TLS, and which protocol is spoken then;
//! * `link.rs`: a connection in use by a request;
//! * `h1/`: the client side of HTTP/1.1; `h2.rs`, `pipe.rs`: that of HTTP/2, hyper's.

mod balance;
mod connect;
mod group;
pub(crate) mod h1;
mod h2;
mod health;
mod link;
mod local;
mod names;
mod pipe;
mod resolve;
mod retry;
mod server;
mod socket;
mod target;
mod tls;
mod watch;

pub(crate) use self::connect::Unconnected;
pub(crate) use self::group::Upstreams;
pub(crate) use self::link::{Carrier, Link};
pub(crate) use self::local::{Local, LocalGroup, Picked, SWEEP, Tried};
pub(crate) use self::target::Scheme;
pub use self::target::{Target, TargetError};
pub use self::tls::{Tls, TlsError, TlsParts};
pub(crate) use self::watch::watch;
