//! Where requests go: servers, how one is taken, and how it is found to work.

use std::time::Duration;

use http::uri::PathAndQuery;

use super::Match;
use crate::config::words::KeyPart;
use crate::upstream::{Target, Tls};

/// Where some requests go.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Which requests.
    pub matches: Match,
    /// The servers; at least one.
    pub servers: Vec<Target>,
    /// Which of them is taken.
    pub balance: Balance,
    /// How long to wait for a connection; as [`Timeouts`](crate::state::Timeouts) says if `None`.
    pub connect: Option<Duration>,
    /// How long to wait for the head of a response, then for each piece of its body; as [`Timeouts`](crate::state::Timeouts) says if `None`.
    pub response: Option<Duration>,
    /// How long either side of a gRPC call may be silent; as `response` says if `None`, an hour if both are.
    pub stream: Option<Duration>,
    /// How often a request may be tried again, if it got no answer and its method is idempotent; once if `None` and
    /// there are several servers.
    pub retries: Option<u32>,
    /// How a server is found to work; by what becomes of requests alone if `None`.
    pub health_check: Option<HealthCheck>,
    /// How servers prove who they are, where their URLs say https; by the authorities of the system if `None`.
    pub tls: Option<Tls>,
}

/// Which server is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest requests under way.
    LeastRequests,
    /// The one that these values of the request decide.
    Hash(Vec<KeyPart>),
}

/// How a server is found to work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// What is asked for.
    pub path: PathAndQuery,
    /// How often.
    pub interval: Duration,
    /// How long to wait for the answer.
    pub timeout: Duration,
    /// How many checks in a row must fail before a server is taken for down.
    pub fall: u32,
    /// How many in a row must succeed before it is taken for up again.
    pub rise: u32,
}

impl Upstream {
    /// One server for all requests.
    #[must_use]
    pub fn new(server: Target) -> Self {
        Self {
            matches: Match::default(),
            servers: vec![server],
            balance: Balance::default(),
            connect: None,
            response: None,
            stream: None,
            retries: None,
            health_check: None,
            tls: None,
        }
    }

    /// Whether it looks at a verified token.
    #[must_use]
    pub fn needs_token(&self) -> bool {
        self.matches.needs_token()
            || matches!(&self.balance, Balance::Hash(key) if key.iter().any(KeyPart::is_claim))
    }
}

impl HealthCheck {
    /// Asks for that, as often and as patiently as if nothing is said about it.
    #[must_use]
    pub fn new(path: PathAndQuery) -> Self {
        let (interval, timeout) = (Duration::from_secs(5), Duration::from_secs(1));
        Self { path, interval, timeout, fall: 2, rise: 1 }
    }
}
