//! [`Config`]: what a configuration says, built and checked. Plain data: nothing here reads files, and a value
//! of these types can't be wrong. The language it is written in, and every refusal, is in the files beside.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, Method};
use ipnet::IpNet;
use ratelimit_core::{Limit, LimitError, LimitSpec, Rate};
use subtle::ConstantTimeEq as _;

use super::listen::{Listener, TlsConfig};
use super::otlp::OtlpConfig;
use super::store::StoreConfig;
use super::words::{Glob, KeyPart, PathPattern, Source};
use crate::answer::Answers;
use crate::identity::token::JwtConfig;
use crate::state::Timeouts;
use crate::upstream::{Target, Tls};

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

/// Where some requests go.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Which requests.
    pub matches: Match,
    /// The servers; at least one.
    pub servers: Vec<Target>,
    /// Which of them is taken.
    pub balance: Balance,
    /// How long to wait for a connection; as [`Timeouts`] says if `None`.
    pub connect: Option<Duration>,
    /// How long to wait for the head of a response, then for each piece of its body; as [`Timeouts`] says if `None`.
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

/// Which requests: those for which everything that is given here holds.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// The path is one of this pattern's.
    pub path: Option<PathPattern>,
    /// The method is one of these; any if empty.
    pub methods: Vec<Method>,
    /// The host is one of this pattern's, in lower case, without port.
    pub host: Option<Glob>,
    /// Each of these fields is there with a value of that pattern.
    pub headers: Vec<(HeaderName, Glob)>,
    /// Each of these query parameters is there with a value of that pattern.
    pub query: Vec<(String, Glob)>,
    /// Each of these claims is in a verified token, with a value of that pattern, or such an item of a list.
    pub jwt: Vec<(String, Glob)>,
    /// The client's address lies in one of these networks; any if empty.
    pub client_ip: Vec<IpNet>,
    /// This does not hold.
    pub not: Option<Box<Self>>,
    /// Envoy's domain is this one.
    pub domain: Option<String>,
    /// Envoy's descriptor has these entries, no others, in this order, each with a value of that pattern.
    pub descriptors: Option<Vec<(String, Glob)>>,
}

/// One limit and what it applies to.
#[derive(Clone, Debug)]
pub struct LimitConfig {
    /// Name, quota and mode.
    pub limit: Limit,
    /// `mode: off`: kept in the file, and nothing else.
    pub off: bool,
    /// Which requests.
    pub matches: Match,
    /// What it counts by; empty: one bucket for all.
    pub key: Vec<KeyPart>,
    /// What becomes of a request without a value for some part of the key.
    pub missing: Missing,
    /// What a request costs; what is held of it where the end decides.
    pub cost: Cost,
    /// How the end of a request decides what it costs; `None` if it does not.
    pub late: Option<Arc<Late>>,
    /// Whether a request is admitted while there is any quota left, and charged in full.
    pub overdraft: bool,
    /// Other quotas for some keys; the first that fits wins.
    pub overrides: Vec<Override>,
    /// Other quotas by what some value of the request says, where no override fits.
    pub tiers: Option<Tiers>,
}

/// What becomes of a request that lacks a value of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// "Missing" is a value of its own: requests that lack the same part, and agree in the others, share a bucket.
    #[default]
    Share,
    /// The limit does not apply to it.
    Skip,
    /// It is denied.
    Deny,
}

/// What a request costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Always so much; 0 asks without charging.
    Fixed(u32),
    /// What some value of the request says, in decimal.
    Value {
        /// Where it stands: a header or a query parameter.
        source: Source,
        /// The cost where it is missing.
        default: u32,
    },
}

/// How the end of a request decides what it costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Late {
    /// Only requests that end so cost anything; all if `None`.
    pub count: Option<Outcomes>,
    /// Where the response says the cost; what was held if `None`.
    pub actual: Option<Actual>,
}

/// Ends of requests: any of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// The status that the client was answered with lies in one of these.
    pub status: Vec<RangeInclusive<u16>>,
    /// The status of gRPC is one of these.
    pub grpc: Vec<u16>,
}

/// Where the response says the cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actual {
    /// The field, in the head or the trailers.
    pub header: HeaderName,
    /// Whether what was held is given back if it says none.
    pub refund_unknown: bool,
}

/// Another quota for some keys.
#[derive(Clone, Debug)]
pub struct Override {
    /// One pattern for each part of the key.
    pub key: Vec<Glob>,
    /// What they get.
    pub quota: Quota,
}

/// Other quotas by what some value of the request says.
#[derive(Clone, Debug)]
pub struct Tiers {
    /// The value.
    pub by: Source,
    /// Its values, and what they get.
    pub tiers: Vec<(String, Quota)>,
    /// Which of them is for a value that is missing or none of these; the limit's own quota if `None`.
    pub default: Option<usize>,
}

/// What an override gives.
#[derive(Clone, Debug)]
pub enum Quota {
    /// The limit with another quota.
    Limit(Limit),
    /// Anything.
    Unlimited,
    /// Nothing.
    Deny,
}

impl Quota {
    /// The limit with another rate, burst or number of permits; what is not given stays as it is, but for the
    /// burst, which is the count of a new rate.
    ///
    /// # Errors
    /// When the limit can't have such a quota.
    pub fn of(
        limit: &Limit,
        rate: Option<Rate>,
        burst: Option<u32>,
        permits: Option<u32>,
    ) -> Result<Self, LimitError> {
        let rate = rate.or(limit.spec().rate);
        let debt = match limit.spec().debt {
            0 => 0,
            // Four times the burst, of the new quota too.
            _ => burst.or(rate.map(Rate::count)).unwrap_or_default().saturating_mul(4),
        };
        let permits = permits.or(limit.spec().permits);
        Limit::try_from(LimitSpec { debt, rate, burst, permits, ..limit.spec().clone() }).map(Self::Limit)
    }
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

impl Match {
    /// Whether it names Envoy's domain or descriptors, and so is about Envoy's questions.
    #[must_use]
    pub fn names_descriptors(&self) -> bool {
        self.domain.is_some()
            || self.descriptors.is_some()
            || self.not.as_ref().is_some_and(|not| not.names_descriptors())
    }

    /// Whether it looks at a verified token.
    #[must_use]
    pub fn needs_token(&self) -> bool {
        !self.jwt.is_empty() || self.not.as_ref().is_some_and(|not| not.needs_token())
    }
}

impl LimitConfig {
    /// Whether it looks at a verified token.
    #[must_use]
    pub fn needs_token(&self) -> bool {
        self.matches.needs_token() || self.sources().any(Source::is_claim)
    }

    /// Whether it names Envoy's domain or descriptors: then it judges Envoy's questions and no requests.
    #[must_use]
    pub fn names_descriptors(&self) -> bool {
        self.matches.names_descriptors()
            || self.sources().any(|source| matches!(source, Source::Descriptor(_)))
    }

    /// The values that its key is made of and that choose its tier.
    fn sources(&self) -> impl Iterator<Item = &Source> {
        let parts = self.key.iter().flat_map(|part| match part {
            KeyPart::One(source) => std::slice::from_ref(source),
            KeyPart::First(sources) => sources.as_slice(),
        });
        parts.chain(self.tiers.as_ref().map(|tiers| &tiers.by))
    }

    /// Whether it looks at a client's verified certificate.
    #[must_use]
    pub fn needs_certificate(&self) -> bool {
        self.tiers.as_ref().is_some_and(|tiers| tiers.by.is_certificate())
            || self.key.iter().any(KeyPart::is_certificate)
    }

    /// A limit on all requests together.
    #[must_use]
    pub fn new(limit: Limit) -> Self {
        Self {
            limit,
            off: false,
            matches: Match::default(),
            key: Vec::new(),
            missing: Missing::Share,
            cost: Cost::Fixed(1),
            late: None,
            overdraft: false,
            overrides: Vec::new(),
            tiers: None,
        }
    }

    /// A limit on each client address.
    #[must_use]
    pub fn by_client(limit: Limit) -> Self {
        Self { key: vec![KeyPart::One(Source::ClientIp)], ..Self::new(limit) }
    }
}
