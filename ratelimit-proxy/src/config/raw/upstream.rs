//! Where requests go.

use super::Match;
use super::limit::KeyPart;
use crate::config::decode::{Either, Many, choice, section};
use crate::config::leaf::{Lasting, Text, Whole};
use crate::upstream::Target;

section! {
    /// Servers for some requests.
    Upstream {
        /// Which requests; all if absent.
        r#match: Match,
        /// URLs of the servers, such as http://10.0.0.1:9000. A name is as many servers as it has addresses.
        servers: Many<Target> [required],
        /// Which server is taken; round_robin if absent.
        balance: Either<BalanceWord, BalanceHash>,
        /// How a server is found to work; by what becomes of requests alone if absent.
        health_check: HealthCheck,
        /// Certificates for https://.
        tls: UpstreamTls,
        /// How long to wait.
        timeout: UpstreamTimeout,
        /// How often a request that got no answer is tried again, on another server if there is one: where its method is
        /// idempotent and it has no body, or where nothing of it was sent. At most every fifth request is. 1 if absent
        /// and there are several servers, 0 if there is one.
        retries: Whole<0, 10>,
    }
}

section! {
    /// Certificates for https:// servers, in files in PEM format, read when the configuration is.
    UpstreamTls {
        /// Authorities to trust; the system's if absent.
        ca: Text,
        /// The name that a server's certificate must have; that of its URL if absent.
        server_name: Text,
        /// The certificate that servers are shown.
        cert: Text,
        /// Its key.
        key: Text,
    }
}

section! {
    /// How long to wait for an upstream.
    UpstreamTimeout {
        /// For a connection; 1s if absent.
        connect: Lasting,
        /// For the head of the response once the request was sent, then for each piece of its body; 30s if absent.
        response: Lasting,
        /// For the next word of a gRPC call over HTTP/2, from either side; as response says if that is given, 1h if
        /// both are absent. Connections whose other end does not answer pings end sooner.
        stream: Lasting,
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
    /// The server that a value of the request decides: the same for the same value, as long as it works.
    BalanceHash {
        /// Which value, as in the key of a limit.
        hash: Many<KeyPart> [required],
    }
}

section! {
    /// How a server is found to work.
    HealthCheck {
        /// The path that is asked for; a status from 200 to 399 says that it works.
        path: Text [required],
        /// How often; 5s if absent.
        interval: Lasting,
        /// How long to wait for the answer; 1s if absent.
        timeout: Lasting,
        /// How many checks in a row must fail before it is taken for down; 2 if absent.
        fall: Whole<1, 100>,
        /// How many in a row must succeed before it is taken for up again; 1 if absent.
        rise: Whole<1, 100>,
    }
}
