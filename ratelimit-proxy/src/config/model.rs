//! [`Config`]: what a configuration says, built and checked. Plain data: nothing here reads files, and a value
//! of these types can't be wrong. The language it is written in, and every refusal, is in the files beside.

mod limit;
mod upstream;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use ratelimit_core::Rate;
use subtle::ConstantTimeEq as _;

pub use self::limit::{Actual, Cost, Late, LimitConfig, Match, Missing, Outcomes, Override, Quota, Tiers};
pub use self::upstream::{Balance, HealthCheck, Upstream};

use super::listen::{Listener, TlsConfig};
use super::otlp::OtlpConfig;
use super::store::StoreConfig;
use crate::answer::Answers;
use crate::identity::token::JwtConfig;
use crate::state::Timeouts;
use crate::upstream::Target;

/// How long what is likely wrong has to show, if nothing else is said.
const DOUBTED: Duration = Duration::from_secs(5 * 60);

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: Vec<Listener>,
    /// Where operators connect; `None` if it is off.
    pub admin: Option<SocketAddr>,
    /// What operators may do there.
    pub operators: Operators,
    /// Where requests go: the first whose match holds; at least one.
    pub upstreams: Vec<Upstream>,
    /// Who is asked where the names of servers lead; the system's name servers if empty.
    pub dns: Arc<[SocketAddr]>,
    /// Who the client is.
    pub client_ip: ClientIp,
    /// Whose tokens are believed; nobody's if `None`.
    pub jwt: Option<JwtConfig>,
    /// Requests that are never limited and never counted.
    pub exempt: Vec<Match>,
    /// The limits, in the order of the file, switched-off ones included.
    pub limits: Vec<LimitConfig>,
    /// What clients are told.
    pub answers: Answers,
    /// What is logged about requests.
    pub log: LogConfig,
    /// Where counters live.
    pub store: StoreConfig,
    /// Threads, connections, time limits.
    pub server: ServerConfig,
    /// Envoy's rate-limit service; `None` if it is off.
    pub rls: Option<RlsConfig>,
    /// Where OTLP is sent to; nowhere if `None`.
    pub otlp: Option<OtlpConfig>,
}

/// Envoy's rate-limit service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RlsConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// TLS, unless it is plain.
    pub tls: Option<TlsConfig>,
    /// Longest a decision may wait for the store where the caller does not say.
    pub deadline: Duration,
    /// How long a connection lives before the caller is asked to make another.
    pub max_connection_age: Duration,
    /// The highest quota that a descriptor may bring along; any if `None`.
    pub max_override: Option<Rate>,
}

/// What operators may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operators {
    /// What changes need; without one, only who connects over loopback changes anything.
    pub token: Option<AdminToken>,
    /// Where overrides that were given at run time are kept.
    pub overrides_file: Option<PathBuf>,
}

/// What an operator proves to be one with. Never shown.
#[derive(Clone)]
pub struct AdminToken(Box<[u8]>);

impl AdminToken {
    /// That one; `None` if it is empty.
    #[must_use]
    pub fn new(token: &str) -> Option<Self> {
        let token = token.trim_ascii();
        (!token.is_empty()).then(|| Self(token.as_bytes().into()))
    }

    /// Whether that is it. Takes as long for any token of its length.
    #[must_use]
    pub fn is(&self, said: &[u8]) -> bool {
        self.0.ct_eq(said).into()
    }

    /// How long it is.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.len()
    }
}

impl PartialEq for AdminToken {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for AdminToken {}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken")
    }
}

/// How the client's address is found.
#[derive(Clone, Debug)]
pub struct ClientIp {
    /// Whose word about the client's address is taken.
    pub trust: Trust,
    /// The field that carries it.
    pub header: HeaderName,
    /// An IPv6 client is its network of that many bits, 48 to 128.
    pub ipv6_prefix: u8,
}

/// Whose word about the client's address is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nobody's: the peer is the client.
    Nobody,
    /// Proxies in these networks.
    Proxies(Vec<IpNet>),
    /// So many proxies in front of us, whatever their addresses; at least 1.
    Hops(u8),
}

/// What is logged about requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Which requests.
    pub requests: LogRequests,
    /// Most lines in a second; `None`: no bound.
    pub sample: Option<u32>,
    /// How keys are shown.
    pub keys: LogKeys,
    /// How long what is likely wrong with the configuration has to show before it is told; `None`: nobody looks.
    pub doubts: Option<Duration>,
}

/// Which requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogRequests {
    /// None.
    Off,
    /// Those that a limit said no to.
    #[default]
    Denied,
    /// All.
    All,
}

/// How keys are shown in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogKeys {
    /// As a hash that is the same within one run.
    #[default]
    Hash,
    /// As they are, escaped.
    Plain,
    /// Not at all.
    Off,
}

/// Threads, connections, time limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Worker threads; as many as there are processors if `None`.
    pub threads: Option<usize>,
    /// Most connections at a time.
    pub max_connections: usize,
    /// Most connections of one client at a time; no bound of its own if `None`.
    pub max_connections_per_client: Option<u32>,
    /// How fast one client may make connections; as fast as it likes if `None`.
    pub new_connections_per_client: Option<Rate>,
    /// Most bytes of memory; whatever there is if `None`.
    pub max_memory: Option<u64>,
    /// How long requests under way may take to finish when the process is told to stop.
    pub drain: Duration,
    /// How long to wait for whom.
    pub timeouts: Timeouts,
}

impl Default for ClientIp {
    fn default() -> Self {
        Self { trust: Trust::Nobody, header: HeaderName::from_static("x-forwarded-for"), ipv6_prefix: 64 }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { requests: LogRequests::Denied, sample: Some(20), keys: LogKeys::Hash, doubts: Some(DOUBTED) }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            threads: None,
            max_connections: 10_000,
            max_connections_per_client: None,
            new_connections_per_client: None,
            max_memory: None,
            drain: Duration::from_secs(30),
            timeouts: Timeouts::default(),
        }
    }
}

impl Config {
    /// The defaults around an upstream: no limits yet.
    #[must_use]
    pub fn new(upstream: Target) -> Self {
        Self {
            listen: vec![Listener::from(SocketAddr::from(([0, 0, 0, 0], 8080)))],
            admin: Some(SocketAddr::from(([127, 0, 0, 1], 9090))),
            operators: Operators::default(),
            upstreams: vec![Upstream::new(upstream)],
            dns: Arc::default(),
            client_ip: ClientIp::default(),
            jwt: None,
            exempt: Vec::new(),
            limits: Vec::new(),
            answers: Answers::default(),
            log: LogConfig::default(),
            store: StoreConfig::default(),
            server: ServerConfig::default(),
            rls: None,
            otlp: None,
        }
    }
}

impl RlsConfig {
    /// There, with the defaults.
    #[must_use]
    pub const fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: None,
            // Envoy itself waits 20.
            deadline: Duration::from_millis(15),
            max_connection_age: Duration::from_secs(30 * 60),
            max_override: None,
        }
    }
}
