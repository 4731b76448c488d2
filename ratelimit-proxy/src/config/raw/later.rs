//! What the language has and this release does not bring to life. It is read, so that slips of the pen are told;
//! the fields that hold it are marked `[later]` where they stand.

use std::net::SocketAddr;

use ratelimit_core::Rate;

use super::ListenTls;
use super::limit::KeyPart;
use crate::config::decode::{Many, choice, section};
use crate::config::leaf::{Lasting, Text};

choice! {
    /// Which server is taken.
    BalanceWord {
        /// The one with the fewest requests under way.
        LeastRequests = "least_requests",
        /// One after the other.
        RoundRobin = "round_robin",
    }
}

section! {
    /// The server that a value of the request decides.
    BalanceHash {
        /// Which value.
        hash: Many<KeyPart> [required],
    }
}

section! {
    /// How a server is found to work.
    HealthCheck {
        /// The path that is asked for.
        path: Text,
        /// How often.
        interval: Lasting,
        /// How long to wait for the answer.
        timeout: Lasting,
    }
}

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
