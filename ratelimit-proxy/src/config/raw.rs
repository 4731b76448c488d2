//! The language: every section, field and word of a configuration, with what it means. Its comments are what the
//! schema says. Fields marked `[later]` belong to the language and wait for what brings them to life: taking the
//! mark away makes them readable.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{HeaderName, Method};
use ratelimit_core::Rate;
use serde_json::{Value, json};

use super::decode::{At, Decode, Either, Entries, Field, Here, Items, Many, choice, section};
use super::fault::Faults;
use super::leaf::{Lasting, Net, OrOff, Share, Text, Whole};
use super::schema::Shapes;
use super::short::Short;
use super::words::{Glob, PathPattern, Source};
use crate::upstream::Target;

type Count = Whole<0, { u32::MAX }>;
type Positive = Whole<1, { u32::MAX }>;

section! {
    /// A configuration of ratelimit-proxy.
    Root {
        /// Where clients connect; 0.0.0.0:8080 if absent.
        listen: Many<Either<SocketAddr, Listener>>,
        /// Where operators connect: health, metrics, limits. 127.0.0.1:9090 if absent; off for none.
        admin: Either<OrOff<SocketAddr>, Admin>,
        /// Where requests go; short for one entry of `upstreams`.
        upstream: Target,
        /// Where requests go; the first that matches.
        upstreams: Items<Upstream>,
        /// Where counters live; memory if absent.
        store: Either<StoreWord, Store>,
        /// How the client's address is found; the peer's if absent.
        client_ip: ClientIp,
        /// Requests that are never limited and never counted.
        exempt: Items<Match>,
        /// The limits: each a section, or short: 5/min by client.ip on POST /login.
        limits: Items<Either<Short, Limit>>,
        /// What a client sees.
        response: Response,
        /// What is logged about requests.
        log: Log,
        /// Threads, connections and time limits of the proxy itself.
        server: Server,
        /// Whose tokens are believed.
        jwt: Jwt [later],
        /// Envoy's rate-limit service over gRPC.
        rls: Either<SocketAddr, Rls> [later],
    }
}

section! {
    /// Where clients connect.
    Listener {
        /// IP address and port.
        address: SocketAddr [required],
        /// Certificate and key.
        tls: ListenTls [later],
        /// Whether each connection begins with a PROXY line.
        proxy_protocol: ProxyProtocol,
    }
}

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
    /// Whether each connection begins with a PROXY line.
    ProxyProtocol {
        /// It does not.
        Off = "off",
        /// It does.
        Required = "required" [later],
    }
}

section! {
    /// Where operators connect.
    Admin {
        /// IP address and port.
        listen: SocketAddr [required],
        /// The variable with the token that changes need.
        token_env: Text [later],
    }
}

section! {
    /// Servers for some requests.
    Upstream {
        /// Which requests; all if absent.
        r#match: Match,
        /// URLs of the servers, such as http://10.0.0.1:9000.
        servers: Many<Target> [required],
        /// Which server is taken.
        balance: Either<BalanceWord, BalanceHash> [later],
        /// How a server is found to work.
        health_check: HealthCheck [later],
        /// How long to wait.
        timeout: UpstreamTimeout,
        /// How often idempotent requests are tried again.
        retries: Count [later],
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

section! {
    /// How long to wait for an upstream.
    UpstreamTimeout {
        /// For a connection; 1s if absent.
        connect: Lasting,
        /// For the head of the response once the request was sent, then for each piece of its body; 30s if absent.
        response: Lasting,
    }
}

choice! {
    /// A store without settings.
    StoreWord {
        /// The memory of this process.
        Memory = "memory",
    }
}

section! {
    /// Where counters live.
    Store {
        /// In the memory of this process.
        memory: Memory,
        /// In Redis or Valkey: a URL, a list of nodes of a Cluster, or sentinels.
        redis: Many<Either<Text, Sentinels>> [later],
        /// Whether every decision is taken in the store, or pieces are taken from it.
        consistency: Consistency [later],
        /// Longest a decision may wait for the store.
        deadline: Lasting [later],
        /// Who decides while the store can't answer.
        on_failure: OnFailure [later],
        /// How many replicas share what `local` allows.
        replicas: Positive [later],
        /// What keys in the store begin with.
        prefix: Text [later],
    }
}

section! {
    /// Room for counters in the memory of this process.
    Memory {
        /// Keys a limit, at least; 1000000 if absent. A key takes 24 bytes, 104 under a sliding window.
        max_keys: Positive,
        /// What happens to keys beyond that.
        overflow: OverflowWord,
    }
}

choice! {
    /// What happens to keys for which there is no room.
    OverflowWord {
        /// Some thousand of them share a counter.
        Share = "share",
        /// They are denied.
        Deny = "deny",
    }
}

section! {
    /// Sentinels that know the master.
    Sentinels {
        /// Their URLs.
        sentinels: Many<Text> [required],
        /// What they call it.
        master: Text [required],
    }
}

choice! {
    /// How close replicas hold together.
    Consistency {
        /// Every decision is taken in the store.
        Strict = "strict",
        /// Replicas take pieces of quota and spend them by themselves.
        Leased = "leased",
    }
}

choice! {
    /// Who decides while the store can't answer.
    OnFailure {
        /// Each replica, within its share.
        Local = "local",
        /// Everything is allowed.
        Allow = "allow",
        /// Everything is refused.
        Deny = "deny",
    }
}

section! {
    /// How the client's address is found.
    ClientIp {
        /// Networks of proxies whose word is taken; none if absent.
        trusted_proxies: Items<Net>,
        /// The field that carries the address; x-forwarded-for if absent.
        header: HeaderName,
        /// Instead of trusted_proxies: how many proxies stand in front.
        hops: Whole<1, 255>,
        /// An IPv6 client is its network of that many bits; 64 if absent.
        ipv6_prefix: Whole<48, 128>,
    }
}

section! {
    /// Which requests: those for which everything that is given holds.
    Match {
        /// Pattern of the path: * is one segment, {name} captures one, a final ** is the rest.
        path: PathPattern,
        /// One of these methods.
        methods: Many<Method>,
        /// Pattern of the host, without port: * is any run of characters.
        host: Glob,
        /// Header fields that are there, with patterns of their values.
        headers: Entries<Glob>,
        /// Query parameters that are there, with patterns of their values.
        query: Entries<Glob>,
        /// The client's address is in one of these networks.
        client_ip: Many<Net>,
        /// Claims of a verified token, with patterns of their values.
        jwt: Entries<Glob> [later],
        /// This does not hold.
        not: Rc<Match>,
        /// Envoy's domain.
        domain: Text [later],
        /// Envoy's descriptors, in order, with patterns of their values.
        descriptors: Items<Entries<Glob>> [later],
    }
}

section! {
    /// A limit.
    Limit {
        /// Its name: 1 to 64 of A-Z a-z 0-9 _ . -
        name: LimitName [required],
        /// Which requests; all if absent.
        r#match: Match,
        /// What it counts by; one bucket for all requests if absent.
        key: Many<KeyPart>,
        /// What becomes of a request without a value for the key; share if absent.
        missing: MissingWord,
        /// How much in how long: COUNT/UNIT with s, min, h, day, week, or month.
        rate: Rate,
        /// Most at once; the count of the rate if absent. For token_bucket.
        burst: Positive,
        /// How it counts; token_bucket if absent.
        algorithm: AlgorithmWord,
        /// The time zone whose calendar a fixed_window follows; UTC if absent.
        timezone: Text,
        /// Most requests under way at once, instead of a rate.
        concurrency: Positive,
        /// What a request costs: a number, or header.NAME or query.NAME that says it; 1 if absent.
        cost: Either<CostWord, LateCost>,
        /// Other quotas for some keys; the first that fits wins.
        overrides: Items<Override>,
        /// Whether it denies; enforce if absent.
        mode: ModeWord,
        /// Only requests that ended so use it up.
        count: CountOnly [later],
        /// Quotas by what the client has paid for.
        tiers: Tiers [later],
        /// Admit while there is any quota left, and charge the full cost.
        overdraft: bool [later],
    }
}

choice! {
    /// How a limit counts.
    AlgorithmWord {
        /// Refills steadily and allows a burst.
        TokenBucket = "token_bucket",
        /// Never more than the count in any interval as long as the period.
        SlidingWindow = "sliding_window",
        /// Never more than the count in each period of the calendar.
        FixedWindow = "fixed_window",
        /// Never more than so many under way at once.
        Concurrency = "concurrency",
    }
}

choice! {
    /// Whether a limit denies.
    ModeWord {
        /// It does.
        Enforce = "enforce",
        /// It is evaluated, counted and reported, but never denies.
        Shadow = "shadow",
        /// It is not evaluated.
        Off = "off",
    }
}

choice! {
    /// What becomes of a request without a value for a key.
    MissingWord {
        /// All such requests share one bucket.
        Share = "share",
        /// The limit does not apply.
        Skip = "skip",
        /// It is denied.
        Deny = "deny",
    }
}

section! {
    /// Another quota for some keys: one of rate, burst, concurrency, unlimited and deny.
    Override {
        /// One pattern for each part of the key: * is any run of characters.
        key: Many<Glob> [required],
        /// How much in how long.
        rate: Rate,
        /// Most at once; the count of its rate if absent.
        burst: Positive,
        /// Most requests under way at once.
        concurrency: Positive,
        /// No limit for them.
        unlimited: bool,
        /// Nothing for them.
        deny: bool,
    }
}

section! {
    /// The first of several values that a request has.
    First {
        /// In order.
        first: Many<Source> [required],
    }
}

/// A part of a key.
pub(super) type KeyPart = Either<Source, First>;

section! {
    /// A cost that is known only when the response ends.
    LateCost {
        /// What is held at admission.
        reserve: CostWord [later],
        /// What is held where the request does not say.
        default: Count [later],
        /// Where the cost is found in the end.
        actual: Actual [later],
        /// What becomes of the reservation if it is found nowhere.
        if_unknown: IfUnknown [later],
    }
}

section! {
    /// Where a cost is found in the end.
    Actual {
        /// A field of the response.
        response_header: HeaderName,
    }
}

choice! {
    /// What becomes of a reservation whose cost never comes.
    IfUnknown {
        /// It is charged.
        Keep = "keep",
        /// It is given back.
        Refund = "refund",
    }
}

section! {
    /// Which requests use a limit up.
    CountOnly {
        /// Those with such a status: 401, 5xx.
        status: Many<Text>,
        /// Those with such a status of gRPC.
        grpc_status: Many<Whole<0, 16>>,
    }
}

section! {
    /// The quota of a tier.
    Tier {
        /// How much in how long.
        rate: Rate,
        /// Most at once.
        burst: Positive,
        /// Most requests under way at once.
        concurrency: Positive,
        /// No limit for them.
        unlimited: bool,
        /// Nothing for them.
        deny: bool,
    }
}

section! {
    /// What a client sees.
    Response {
        /// The status of a denial, 400 to 599; 429 if absent.
        status: Whole<400, 599>,
        /// Which fields tell about limits; ietf if absent.
        headers: HeadersWord,
        /// How x-ratelimit-reset says when; delta if absent.
        reset: ResetWord,
        /// Whether the fields are listed for scripts in browsers; true if absent.
        expose: bool,
        /// The body of a denial; problem if absent.
        body: Either<BodyWord, BodyFile>,
        /// Up to this share is added to Retry-After, from 0 to 1.
        retry_jitter: Share,
    }
}

choice! {
    /// Which fields tell about limits.
    HeadersWord {
        /// RateLimit and RateLimit-Policy.
        Ietf = "ietf",
        /// x-ratelimit-limit, -remaining and -reset.
        Legacy = "legacy",
        /// All of them.
        Both = "both",
        /// None but Retry-After.
        None = "none",
    }
}

choice! {
    /// How x-ratelimit-reset says when.
    ResetWord {
        /// In seconds from now.
        Delta = "delta",
        /// In seconds since 1970.
        Epoch = "epoch",
    }
}

choice! {
    /// The body of a denial.
    BodyWord {
        /// RFC 9457 JSON that names the limits.
        Problem = "problem",
        /// One line.
        Text = "text",
    }
}

section! {
    /// A body of your own.
    BodyFile {
        /// The file, relative to this one; 1 MiB at most.
        file: Text [required],
        /// Its type, such as text/html.
        content_type: Text [required],
    }
}

section! {
    /// What is logged about requests.
    Log {
        /// Which requests; denied if absent.
        requests: RequestsWord,
        /// Most lines in a second, such as 20/s, or off for no bound; 20/s if absent.
        sample: OrOff<Rate>,
        /// How keys are shown; hash if absent.
        keys: KeysWord,
    }
}

choice! {
    /// Which requests are logged.
    RequestsWord {
        /// None.
        Off = "off",
        /// Those that a limit said no to.
        Denied = "denied",
        /// All.
        All = "all",
    }
}

choice! {
    /// How keys are shown in the log.
    KeysWord {
        /// As a hash that is the same within one run.
        Hash = "hash",
        /// As they are, escaped.
        Plain = "plain",
        /// Not at all.
        Off = "off",
    }
}

section! {
    /// Threads, connections and time limits of the proxy itself.
    Server {
        /// Worker threads; as many as there are processors if absent.
        threads: Whole<1, 1024>,
        /// Most connections at a time; 10000 if absent.
        max_connections: Positive,
        /// How long requests under way may take to finish when the process is told to stop; 30s if absent.
        drain: Lasting,
        /// How long to wait for clients.
        timeouts: Timeouts,
    }
}

section! {
    /// How long to wait for clients.
    Timeouts {
        /// For the head of a request; 10s if absent.
        head: Lasting,
        /// For the next request on a connection; 75s if absent.
        idle: Lasting,
        /// For the next piece of a request's body; 30s if absent.
        body: Lasting,
        /// For the client to read some of what was written to it; 30s if absent.
        write: Lasting,
    }
}

section! {
    /// Whose tokens are believed.
    Jwt {
        /// Their issuer, whose keys are found by OpenID Connect.
        issuer: Text,
        /// URL of the keys.
        jwks_url: Text,
        /// File with the keys.
        jwks_file: Text,
        /// The variable with the shared secret.
        secret_env: Text,
        /// File with the public key.
        public_key_file: Text,
        /// Whether a token must be bound to the client's certificate.
        bound: bool,
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

/// A name of a limit.
#[derive(Debug)]
pub(super) struct LimitName(pub(super) String);

impl LimitName {
    /// What a name is, for those who wrote another.
    pub(super) const WANTED: &'static str = "a name of a limit: write 1 to 64 of A-Z a-z 0-9 _ . -";

    /// The name that a text is.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let proper = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        ((1..=64).contains(&text.len()) && text.chars().all(proper)).then(|| Self(text.to_owned()))
    }
}

impl Decode for LimitName {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let name = here.scalar().and_then(|scalar| Self::parse(&scalar.text));
        if name.is_none() {
            here.wrong(Self::WANTED, faults);
        }
        name
    }

    fn schema(_: &mut Shapes) -> Value {
        super::schema::or_variable(json!({"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"}))
    }
}

/// A cost, or the value of a request that says it.
#[derive(Debug)]
pub(super) enum CostWord {
    Fixed(u32),
    Value(Source),
}

impl Decode for CostWord {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let word = here.scalar().is_some_and(|scalar| scalar.text.starts_with(|c: char| c.is_ascii_lowercase()));
        if word {
            let source = Source::decode(here, faults)?;
            if !matches!(source, Source::Header(_) | Source::Query(_)) {
                faults.refuse_with(
                    &here.place,
                    format!("{source} can't say what a request costs"),
                    "write a number, header.NAME or query.NAME",
                );
                return None;
            }
            return Some(Self::Value(source));
        }
        Count::decode(here, faults).map(|number| Self::Fixed(number.0))
    }

    fn schema(shapes: &mut Shapes) -> Value {
        json!({"anyOf": [Count::schema(shapes), {"type": "string", "pattern": r"^(header|query)\..+"}]})
    }
}

/// Quotas by what some value of the request says.
#[derive(Debug, Default)]
pub(super) struct Tiers {
    pub(super) by: Field<Source>,
    pub(super) default: Field<Text>,
    pub(super) tiers: Vec<(At<String>, At<Tier>)>,
}

impl Decode for Tiers {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let mut tiers = Self::default();
        let Some(fields) = here.fields(faults) else {
            here.wrong("a section", faults);
            return None;
        };
        for (name, place, value) in fields {
            match name {
                "by" => tiers.by.take(&value, faults),
                "default" => tiers.default.take(&value, faults),
                name => tiers.tiers.extend(
                    At::decode(&value, faults).map(|tier| (At { place, value: name.to_owned() }, tier)),
                ),
            }
        }
        if tiers.by.is_absent() {
            faults.refuse(&here.place, "by is missing");
        }
        Some(tiers)
    }

    fn schema(shapes: &mut Shapes) -> Value {
        shapes.shape("Tiers", |shapes| {
            let (by, default) = (Source::schema(shapes), Text::schema(shapes));
            json!({
                "description": "Quotas by what some value of the request says.",
                "type": "object",
                "properties": {"by": by, "default": default},
                "required": ["by"],
                "additionalProperties": Tier::schema(shapes),
            })
        })
    }
}
