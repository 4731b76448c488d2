//! [`Policy::explain`]: what [`Policy::select`] does with a request, and why, for people and as data. Both run
//! the same judgement, so they can't disagree.

mod shown;

use std::net::IpAddr;
use std::ops::Range;

use ratelimit_core::{Algorithm, KeyBuf, Limit};
use serde::Serialize;

use super::Policy;
use super::key::Found;
use super::matcher::quoted;
use super::rule::{Judgement, QuotaFrom, Rule, RuleMode};
use super::source::Value;
use super::written::WrittenKey;
use crate::config::Quota;
use crate::config::words::{KeyPart, Source};
use crate::facts::{Descriptor, Facts};

/// Where a quota comes from that no override changed.
const FROM_LIMIT: &str = "limit";

/// What the limits make of a request.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The method.
    pub method: String,
    /// The host, in lower case and without port; `None` if the request names none.
    pub host: Option<String>,
    /// The path as it is matched and forwarded.
    pub path: String,
    /// The client's address, not masked.
    pub client: IpAddr,
    /// Envoy's question, if it is no request; then it has none of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<ExplainedQuestion>,
    /// The exemption that lets the request off, in words.
    pub exempt: Option<String>,
    /// Every limit, in the order of the file.
    pub limits: Vec<Explained>,
}

/// A descriptor that Envoy asks about; bytes that are no text are escaped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedQuestion {
    /// Whose it is.
    pub domain: String,
    /// Names and values, in order.
    pub entries: Vec<(String, String)>,
}

/// What one limit makes of a request.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// Name of the limit.
    pub limit: String,
    /// What its "no" means.
    pub mode: RuleMode,
    /// What it does.
    pub effect: Effect,
    /// Why it does not count the request, or says no at once; `None` if it counts it.
    pub why: Option<String>,
    /// The key; empty if the limit is not about the request, or has one bucket for all.
    pub key: Vec<ExplainedPart>,
    /// The quota in force.
    pub quota: Option<String>,
    /// Where the quota comes from: `limit`, `override 2`, or `tier pro`.
    pub quota_from: Option<String>,
    /// What the request costs.
    pub cost: Option<u32>,
    /// What decides in the end what it costs, in words.
    pub settled: Option<String>,
    /// What leases may hold back, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leases: Option<Leases>,
    /// The limit that counts the request, with the quota in force for its key.
    #[serde(skip)]
    pub in_force: Option<Limit>,
    /// Where the canonical key lies in the buffer, if the limit counts the request.
    #[serde(skip)]
    pub bytes: Option<Range<usize>>,
}

/// What leases of the other replicas may hold back from one, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Leases {
    /// Of so many replicas in all.
    pub replicas: u32,
    /// Units that may be missing while one looks for them.
    pub units: u32,
    /// Of so many.
    pub capacity: u32,
    /// For so long; then they are back for everybody.
    pub milliseconds: u64,
}

/// What a limit does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Effect {
    /// It counts it.
    Counts,
    /// It is about other requests.
    NoMatch,
    /// It is switched off.
    Off,
    /// The request is exempt from all limits.
    Exempt,
    /// The key is missing, and such requests are not counted.
    Skips,
    /// An override frees the key.
    Unlimited,
    /// An override denies the key, or it is missing where it must not be.
    Denies,
    /// The cost that the request names is no number.
    BadCost,
    /// A part of the key is there several times, with different values.
    Ambiguous,
    /// The cost is more than the limit can ever hold.
    Never,
}

/// One part of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedPart {
    /// Where the value is from; of several sources the one that had it.
    pub source: String,
    /// The value, bytes that are no text escaped (`\xff`); `None` if it is missing.
    pub value: Option<String>,
    /// The value for people: text in quotes and escaped, an address as it is.
    #[serde(skip)]
    shown: String,
}

impl Policy {
    /// Says for every limit what it makes of a request and why. The keys of those that count it are appended to
    /// `keys`.
    #[must_use]
    pub fn explain(&self, facts: &Facts<'_>, keys: &mut KeyBuf) -> Explanation {
        let exemption = self.exemption(facts);
        let exempt = exemption.map(|(number, matcher)| format!("{matcher} (exemption {})", number + 1));
        let one = |rule: &Rule| {
            if exempt.is_some() && rule.mode() != RuleMode::Off {
                return Explained::new(rule, Effect::Exempt).because("the request is exempt");
            }
            self.explain_rule(rule, facts, keys)
        };
        let limits = self.rules.iter().map(one).collect();
        Explanation {
            method: facts.method.to_string(),
            host: (!facts.host.is_empty()).then(|| facts.host.to_owned()),
            path: facts.path.to_owned(),
            client: facts.client,
            question: facts.descriptor.map(ExplainedQuestion::new),
            exempt,
            limits,
        }
    }

    fn explain_rule(&self, rule: &Rule, facts: &Facts<'_>, keys: &mut KeyBuf) -> Explained {
        let judgement = rule.judge(facts, keys);
        let part = |number: usize| rule.parts.get(number).map(ToString::to_string).unwrap_or_default();
        let explained = match &judgement {
            Judgement::Off => return Explained::new(rule, Effect::Off).because("switched off"),
            Judgement::Elsewhere(condition) => {
                return Explained::new(rule, Effect::NoMatch).because(rule.matcher.why(*condition, facts));
            }
            Judgement::Skipped(number) => {
                Explained::new(rule, Effect::Skips).because(format!("{} is missing", part(*number)))
            }
            Judgement::Lacking(number) => {
                Explained::new(rule, Effect::Denies).because(format!("{} is missing", part(*number)))
            }
            Judgement::Unlimited(from) => Explained::new(rule, Effect::Unlimited)
                .because(format!("{} frees the key", words(rule, *from)))
                .quota("unlimited".to_owned(), words(rule, *from)),
            Judgement::Denied(from) => Explained::new(rule, Effect::Denies)
                .because(format!("{} denies the key", words(rule, *from)))
                .quota("nothing".to_owned(), words(rule, *from)),
            Judgement::Ambiguous(number) => {
                let why = format!("{} is there with several values: the answer is 400", part(*number));
                return Explained::new(rule, Effect::Ambiguous).because(why);
            }
            Judgement::BadCost => Explained::new(rule, Effect::BadCost)
                .because("the cost that the request names is not a number: the answer is 400"),
            Judgement::Applies { limit, from, key, cost } => {
                let counts = match limit.capacity() {
                    most if *cost > most && !rule.overdraft => Explained::new(rule, Effect::Never)
                        .because(format!("it holds {most} at most, so the answer is 413")),
                    _ => Explained::new(rule, Effect::Counts),
                };
                let counts = counts.quota(quota(limit), words(rule, *from));
                let settled = settled(rule);
                let in_force = Some((*limit).clone());
                Explained { settled, cost: Some(*cost), in_force, bytes: Some(key.clone()), ..counts }
            }
        };
        let values = rule.key.read(facts).unwrap_or_default();
        Explained { key: rule.explained_parts(&values), ..explained }
    }
}

/// What one key of a limit gets, whatever the request.
#[derive(Clone, Debug)]
pub struct InForce {
    /// What it gets.
    pub quota: Quota,
    /// The same in words.
    pub words: String,
    /// Where that comes from: `limit`, `override 2`, `override at run time`.
    pub from: String,
}

impl Rule {
    /// What a key gets, as long as no tier says otherwise.
    #[must_use]
    pub fn in_force(&self, key: &WrittenKey) -> InForce {
        let (from, quota) = match self.overridden(key.values(), || key.overridden()) {
            Some((from, quota)) => (from, quota.clone()),
            None => (QuotaFrom::Limit, Quota::Limit(self.limit.clone())),
        };
        let in_words = match &quota {
            Quota::Limit(limit) => self::quota(limit),
            Quota::Unlimited => "unlimited".to_owned(),
            Quota::Deny => "nothing".to_owned(),
        };
        InForce { quota, words: in_words, from: words(self, from) }
    }

    pub(super) fn explained_parts(&self, values: &[Found<'_>]) -> Vec<ExplainedPart> {
        self.parts.iter().zip(values).map(|(part, found)| self.part(part, found)).collect()
    }

    fn part(&self, part: &KeyPart, found: &Found<'_>) -> ExplainedPart {
        let source = match (part, found.source) {
            (KeyPart::First(sources), Some(number)) => sources.get(number).map(Source::to_string),
            _ => None,
        };
        let (value, shown) = match &found.value {
            None => (None, String::new()),
            Some(Value::Address(address)) => {
                let address = match address {
                    IpAddr::V6(network) if self.key.ipv6_prefix() < 128 => {
                        format!("{network}/{}", self.key.ipv6_prefix())
                    }
                    address => address.to_string(),
                };
                (Some(address.clone()), address)
            }
            Some(Value::Text(text)) => match std::str::from_utf8(text) {
                Ok(plain) => (Some(plain.to_owned()), format!("{plain:?}")),
                Err(_) => (Some(text.escape_ascii().to_string()), quoted(text)),
            },
        };
        ExplainedPart { source: source.unwrap_or_else(|| part.to_string()), value, shown }
    }
}

impl ExplainedQuestion {
    fn new(descriptor: &Descriptor<'_>) -> Self {
        let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => bytes.escape_ascii().to_string(),
        };
        let entries = descriptor.entries.iter().map(|(name, value)| (text(name), text(value))).collect();
        Self { domain: text(descriptor.domain), entries }
    }
}

impl Explained {
    fn new(rule: &Rule, effect: Effect) -> Self {
        Self {
            limit: rule.limit.name().to_owned(),
            mode: rule.mode(),
            effect,
            why: None,
            key: Vec::new(),
            quota: None,
            quota_from: None,
            cost: None,
            settled: None,
            leases: None,
            in_force: None,
            bytes: None,
        }
    }

    fn because(self, why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..self }
    }

    fn quota(self, quota: String, from: String) -> Self {
        Self { quota: Some(quota), quota_from: Some(from), ..self }
    }
}

/// What decides in the end what a request costs.
fn settled(rule: &Rule) -> Option<String> {
    let mut words = Vec::new();
    if let Some(outcomes) = rule.late.as_ref().and_then(|late| late.count.as_ref()) {
        let status = |range: &std::ops::RangeInclusive<u16>| match range.start() {
            status if status == range.end() => status.to_string(),
            status => format!("{}xx", status / 100),
        };
        let statuses = outcomes.status.iter().map(status);
        let ends: Vec<_> = statuses.chain(outcomes.grpc.iter().map(|grpc| format!("grpc {grpc}"))).collect();
        words.push(format!("given back unless it ends in {}", ends.join(", ")));
    }
    if let Some(actual) = rule.late.as_ref().and_then(|late| late.actual.as_ref()) {
        words.push(format!("settled by the response's {}", actual.header));
    }
    if rule.overdraft {
        words.push("admitted while there is any quota left".to_owned());
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// Where a quota comes from, in words: `limit`, `override 2`, `tier pro`.
fn words(rule: &Rule, from: QuotaFrom) -> String {
    match from {
        QuotaFrom::Limit => "limit".to_owned(),
        QuotaFrom::Override(number) => format!("override {}", number + 1),
        QuotaFrom::Live => "override at run time".to_owned(),
        QuotaFrom::Tier(number) => {
            format!("tier {}", rule.tiers.as_ref().map_or("", |tiers| tiers.name(number)))
        }
    }
}

/// A quota in words: `100/s, burst 200`, `5/min, sliding_window`, `4 at a time`.
fn quota(limit: &Limit) -> String {
    let spec = limit.spec();
    let Some(rate) = &spec.rate else { return format!("{} at a time", limit.capacity()) };
    match (spec.algorithm, &spec.time_zone) {
        (Algorithm::TokenBucket, _) if limit.capacity() != rate.count() => {
            format!("{rate}, burst {}", limit.capacity())
        }
        (Algorithm::TokenBucket, _) => rate.to_string(),
        (algorithm, None) => format!("{rate}, {algorithm}"),
        (algorithm, Some(zone)) => format!("{rate}, {algorithm}, {zone}"),
    }
}
