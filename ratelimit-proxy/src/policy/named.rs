//! A limit and a key by their names, from who knows them and has no request: [`Policy::named`].

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use http::HeaderMap;
use ratelimit_core::KeyBuf;

use super::key::{Found, Values};
use super::rule::{Rule, RuleMode};
use super::source::{Value, masked};
use super::{Met, Policy, Selection};
use crate::config::words::{KeyPart, Source};
use crate::facts::{Descriptor, Facts};

/// A part of a key, as it is written by who knows it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Given<'r> {
    /// Which of several sources it is from; of those that fit, the first if `None`.
    pub(crate) source: Option<&'r str>,
    /// `None`: a request would not have it.
    pub(crate) value: Option<&'r str>,
}

/// Why there is no such limit or key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotNamed {
    /// No limit has that name.
    Limit,
    /// It is switched off.
    Off,
    /// It counts what is under way, and nobody would say when that ends.
    Concurrency,
    /// The key has so many parts.
    Parts(usize),
    /// That part is an address.
    Address(usize),
    /// That part is never from there.
    Source(usize),
    /// The domain is part of the key.
    Domain,
}

impl Policy {
    /// A limit and one of its keys, as if a request had met them. The key is appended to `keys`. `domain` is for
    /// limits on Envoy's questions that name none.
    ///
    /// # Errors
    /// Why there is no such limit or key.
    pub(crate) fn named<'p>(
        &'p self,
        name: &str,
        key: &[Given<'_>],
        domain: Option<&str>,
        keys: &mut KeyBuf,
    ) -> Result<(Selection<'p>, Met<'p>), NotNamed> {
        let mut rules = self.rules.iter().zip(&self.series);
        let (rule, number) = rules.find(|(rule, _)| rule.limit.name() == name).ok_or(NotNamed::Limit)?;
        match rule.mode() {
            RuleMode::Off => return Err(NotNamed::Off),
            _ if rule.limit.spec().permits.is_some() => return Err(NotNamed::Concurrency),
            _ => {}
        }
        let values = rule.values(key, self.ipv6_prefix)?;
        let domain = match rule.matcher.domain() {
            Some(own) => Some(own),
            None if rule.matcher.is_asked() => Some(domain.ok_or(NotNamed::Domain)?),
            None => None,
        };
        let descriptor =
            Descriptor { domain: domain.unwrap_or_default().as_bytes(), ..Descriptor::default() };
        let none = HeaderMap::new();
        let mut facts = Facts::asked(&descriptor, &none);
        if domain.is_none() {
            facts.descriptor = None;
        }
        let (mut selection, mut met) = (Selection::default(), Met::default());
        // Nothing of it is there twice, and its cost stands nowhere.
        let _ = met.add(rule, *number, rule.weigh(&values, &facts, keys), &mut selection);
        Ok((selection, met))
    }
}

impl Rule {
    fn values<'r>(&self, given: &[Given<'r>], ipv6_prefix: u8) -> Result<Values<'r>, NotNamed> {
        if given.len() != self.parts.len() {
            return Err(NotNamed::Parts(self.parts.len()));
        }
        let parts = self.parts.iter().zip(given).enumerate();
        parts.map(|(at, (part, given))| found(part, *given, at + 1, ipv6_prefix)).collect()
    }
}

fn found<'r>(part: &KeyPart, given: Given<'r>, at: usize, ipv6_prefix: u8) -> Result<Found<'r>, NotNamed> {
    let Some(text) = given.value else { return Ok(Found { value: None, source: None }) };
    let sources = match part {
        KeyPart::One(source) => std::slice::from_ref(source),
        KeyPart::First(sources) => sources.as_slice(),
    };
    let address = text.parse::<IpAddr>().ok().map(|address| masked(address, ipv6_prefix));
    // What looks like an address is one where it can be; of other sources, the first.
    let fits = |source: &Source| match given.source {
        Some(name) => source.to_string() == name,
        None => sources.len() == 1 || (*source == Source::ClientIp) == address.is_some(),
    };
    let number = sources.iter().position(fits).or(given.source.is_none().then_some(0));
    let Some((number, source)) = number.and_then(|number| Some((number, sources.get(number)?))) else {
        return Err(NotNamed::Source(at));
    };
    let value = match source {
        Source::ClientIp => Value::Address(address.ok_or(NotNamed::Address(at))?),
        _ => Value::Text(Cow::Borrowed(text.as_bytes())),
    };
    Ok(Found { value: Some(value), source: matches!(part, KeyPart::First(_)).then_some(number) })
}

impl fmt::Display for NotNamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit => f.write_str("there is no limit of that name"),
            Self::Off => f.write_str("the limit is switched off"),
            Self::Concurrency => {
                f.write_str("the limit counts what is under way, and nobody would say when that ends")
            }
            Self::Parts(0) => f.write_str("the limit has no key: leave it out"),
            Self::Parts(1) => f.write_str("the key has 1 part"),
            Self::Parts(parts) => write!(f, "the key has {parts} parts"),
            Self::Address(part) => write!(f, "part {part} of the key is an IP address"),
            Self::Source(part) => write!(f, "part {part} of the key is never from there"),
            Self::Domain => f.write_str("the domain is part of the key: give it as domain"),
        }
    }
}
