//! Limits: which requests they are for, by which key, at what cost, with what quota.

use std::ops::RangeInclusive;
use std::sync::Arc;

use http::{HeaderName, Method};
use ipnet::IpNet;
use ratelimit_core::{Limit, LimitError, LimitSpec, Rate};

use crate::config::words::{Glob, KeyPart, PathPattern, Source};

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
