//! What the language has and this release does not bring to life. It is read, so that slips of the pen are told;
//! the fields that hold it are marked `[later]` where they stand.

use std::net::SocketAddr;

use ratelimit_core::Rate;

use super::ListenTls;
use crate::config::decode::section;
use crate::config::leaf::Lasting;

section! {
    /// Envoy's rate-limit service.
    Rls {
        /// IP address and port.
        listen: SocketAddr [required],
        /// Certificate and key.
        tls: ListenTls,
        /// Longest a decision may take where the caller does not say.
        deadline: Lasting,
        /// How long a connection lives.
        max_connection_age: Lasting,
        /// The highest quota that a descriptor may bring along.
        max_override: Rate,
    }
}
