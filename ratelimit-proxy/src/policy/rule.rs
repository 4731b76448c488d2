//! [`Rule`]: one limit, compiled, and what it makes of a request.

use std::fmt;
use std::ops::Range;

use http::HeaderName;
use ratelimit_core::{KeyBuf, Limit};

use super::cost::{BadCost, CostReader};
use super::key::{self, Found, KeyReader};
use super::matcher::{Condition, Effect, Matcher};
use super::overrides::Overrides;
use crate::config::words::KeyPart;
use crate::config::{LimitConfig, Missing, Quota};
use crate::facts::Facts;

/// One limit.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name and its numbers.
    pub limit: Limit,
    pub(super) mode: RuleMode,
    pub(super) matcher: Matcher,
    pub(super) parts: Box<[KeyPart]>,
    pub(super) key: KeyReader,
    pub(super) cost: CostReader,
    pub(super) overrides: Overrides,
}

/// What a limit's "no" means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RuleMode {
    /// It denies.
    Enforce,
    /// It is evaluated, counted and reported, but never denies.
    Shadow,
    /// The limit is kept in the file, and nothing else.
    Off,
}

/// What a rule makes of a request.
#[derive(Clone, Debug)]
pub(super) enum Judgement<'p> {
    Off,
    /// It is not about the request.
    Elsewhere(Condition),
    /// That part of the key is missing, and such requests are not counted.
    Skipped(usize),
    /// That part of the key is missing, and such requests are denied.
    Lacking(usize),
    /// The override of that number exempts the key.
    Unlimited(usize),
    /// The override of that number denies the key.
    Denied(usize),
    BadCost,
    /// That part of the key is there with several values.
    Ambiguous(usize),
    Applies {
        limit: &'p Limit,
        /// Number of the override whose quota is in force.
        overridden: Option<usize>,
        key: Range<usize>,
        cost: u32,
    },
}

impl Rule {
    pub(super) fn new(config: &LimitConfig, ipv6_prefix: u8) -> Self {
        let mode = match (config.off, config.limit.is_shadow()) {
            (true, _) => RuleMode::Off,
            (false, true) => RuleMode::Shadow,
            (false, false) => RuleMode::Enforce,
        };
        let key = KeyReader::new(&config.key, config.missing, config.matches.path.as_ref(), ipv6_prefix);
        let addresses: Vec<bool> = key.addresses().collect();
        Self {
            limit: config.limit.clone(),
            mode,
            matcher: Matcher::new(&config.matches, Effect::Limits),
            parts: config.key.as_slice().into(),
            overrides: Overrides::new(&config.overrides, &addresses, ipv6_prefix),
            key,
            cost: CostReader::new(&config.cost),
        }
    }

    /// What its "no" means, and whether it is there at all.
    #[must_use]
    pub const fn mode(&self) -> RuleMode {
        self.mode
    }

    /// The key in words: `client.ip`, `header.x-api-key, path.resource`, `none`.
    pub fn key(&self) -> impl fmt::Display {
        Parts(&self.parts)
    }

    /// Which requests it is about, in words: `POST /login`, `every request`.
    pub fn matches(&self) -> impl fmt::Display {
        &self.matcher
    }

    /// Judges a request. The key lies in `keys` if it applies; whatever else is written there means nothing.
    #[inline]
    pub(super) fn judge<'p>(&'p self, facts: &Facts<'_>, keys: &mut KeyBuf) -> Judgement<'p> {
        if self.mode == RuleMode::Off {
            return Judgement::Off;
        }
        if let Some(condition) = self.matcher.fails(facts) {
            return Judgement::Elsewhere(condition);
        }
        let values = match self.key.read(facts) {
            Ok(values) => values,
            Err(part) => return Judgement::Ambiguous(part),
        };
        // A key that is denied, or may do anything, is so with parts missing too.
        let (limit, overridden) = match self.quota(&values) {
            Some((number, Quota::Deny)) => return Judgement::Denied(number),
            Some((number, Quota::Unlimited)) => return Judgement::Unlimited(number),
            Some((number, Quota::Limit(limit))) => (limit, Some(number)),
            None => (&self.limit, None),
        };
        match self.key.lacks(&values) {
            Some((part, Missing::Skip)) => return Judgement::Skipped(part),
            Some((part, _)) => return Judgement::Lacking(part),
            None => {}
        }
        let Ok(cost) = self.cost.read(facts).map_err(|BadCost| ()) else { return Judgement::BadCost };
        let start = keys.len();
        key::write(&values, keys);
        Judgement::Applies { limit, overridden, key: start..keys.len(), cost }
    }

    #[inline]
    fn quota(&self, values: &[Found<'_>]) -> Option<(usize, &Quota)> {
        if self.overrides.is_empty() { None } else { self.overrides.find(values) }
    }

    pub(super) fn looks_at_path(&self) -> bool {
        let mut readers = self.key.readers().chain(self.cost.reader());
        self.matcher.looks_at_path() || readers.any(super::source::Reader::looks_at_path)
    }

    /// The fields that it depends on.
    pub(super) fn fields(&self) -> Vec<&HeaderName> {
        let mut fields = Vec::new();
        self.matcher.fields(&mut fields);
        let readers = self.key.readers().chain(self.cost.reader());
        fields.extend(readers.filter_map(super::source::Reader::field));
        fields
    }
}

struct Parts<'p>(&'p [KeyPart]);

impl fmt::Display for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (number, part) in self.0.iter().enumerate() {
            f.write_str(if number == 0 { "" } else { ", " })?;
            match part {
                KeyPart::First(_) if self.0.len() > 1 => write!(f, "({part})")?,
                _ => part.fmt(f)?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for RuleMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
            Self::Off => "off",
        })
    }
}
