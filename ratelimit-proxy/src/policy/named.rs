//! A limit and a key by their names, from who knows them and has no request: [`Policy::named`].

use std::fmt;

use http::HeaderMap;
use ratelimit_core::KeyBuf;

use super::rule::{Rule, RuleMode};
use super::{KeyFault, Met, Policy, Selection, WrittenKey, WrittenPart};
use crate::config::words::KeyPart;
use crate::facts::{Descriptor, Facts};

/// Why there is no such limit or key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotNamed {
    /// No limit has that name.
    Limit,
    /// It is switched off.
    Off,
    /// It counts what is under way, and nobody would say when that ends.
    Concurrency,
    /// It has no such key.
    Key(KeyFault),
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
        key: &[WrittenPart],
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
        let key = rule.key_of_parts(key)?;
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
        let _ = met.add(rule, *number, rule.weigh(key.values(), &facts, keys), &mut selection);
        Ok((selection, met))
    }
}

impl Rule {
    fn key_of_parts(&self, given: &[WrittenPart]) -> Result<WrittenKey, NotNamed> {
        let key = self.key_from_parts(given).map_err(NotNamed::Key)?;
        for (at, (part, given)) in self.parts.iter().zip(given).enumerate() {
            let sources = match part {
                KeyPart::One(source) => std::slice::from_ref(source),
                KeyPart::First(sources) => sources.as_slice(),
            };
            let fits = |name: &String| sources.iter().any(|source| source.to_string() == *name);
            if given.source.as_ref().is_some_and(|name| !fits(name)) {
                return Err(NotNamed::Source(at + 1));
            }
        }
        Ok(key)
    }
}

impl fmt::Display for NotNamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit => f.write_str("there is no limit of that name"),
            Self::Off => f.write_str("the limit is switched off"),
            Self::Concurrency => {
                f.write_str("the limit counts what is under way, and nobody would say when that ends")
            }
            Self::Key(fault) => fault.fmt(f),
            Self::Source(part) => write!(f, "part {part} of the key is never from there"),
            Self::Domain => f.write_str("the domain is part of the key: give it as domain"),
        }
    }
}
