//! What the language has and this release does not bring to life. It is read, so that slips of the pen are told;
//! the fields that hold it are marked `[later]` where they stand.

use super::limit::KeyPart;
use crate::config::decode::{Many, choice, section};
use crate::config::leaf::{Lasting, Text};

section! {
    /// Certificate and key of a listener.
    ListenTls {
        /// File with the certificate chain.
        cert: Text,
        /// File with the key.
        key: Text,
        /// File with the authorities whose client certificates are believed.
        client_ca: Text,
    }
}

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
