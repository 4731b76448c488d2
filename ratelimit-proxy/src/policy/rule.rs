//! [`Rule`]: one limit, compiled, and what it makes of a request.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use http::HeaderName;
use ratelimit_core::{Key, KeyBuf, Limit};

use super::cost::{BadCost, CostReader};
use super::key::{self, Found, KeyReader};
use super::live::Live;
use super::matcher::{Condition, Effect, Matcher};
use super::overrides::Overrides;
use super::source::Reader;
use super::tiers::Tiers;
use crate::config::words::KeyPart;
use crate::config::{Late, LimitConfig, Missing, Quota};
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
    pub(super) overrides: Arc<Overrides>,
    /// Overrides that were given at run time, if there are any.
    pub(super) live: Option<Arc<Live>>,
    pub(super) tiers: Option<Tiers>,
    pub(super) late: Option<Arc<Late>>,
    pub(super) overdraft: bool,
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
    /// The key is exempt.
    Unlimited(QuotaFrom),
    /// The key is denied.
    Denied(QuotaFrom),
    BadCost,
    /// That part of the key is there with several values.
    Ambiguous(usize),
    Applies {
        limit: &'p Limit,
        /// Whose quota is in force.
        from: QuotaFrom,
        key: Range<usize>,
        cost: u32,
    },
}

/// Whose quota is in force for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuotaFrom {
    Limit,
    /// The override of that number.
    Override(usize),
    /// One that was given at run time.
    Live,
    /// The tier of that number.
    Tier(usize),
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
            matcher: Matcher::new(&config.matches, Effect::Limits).about(config.names_descriptors()),
            parts: config.key.as_slice().into(),
            overrides: Arc::new(Overrides::new(&config.overrides, &addresses, ipv6_prefix)),
            live: None,
            key,
            cost: CostReader::new(&config.cost),
            late: config.late.clone(),
            overdraft: config.overdraft,
            tiers: config
                .tiers
                .as_ref()
                .map(|tiers| Tiers::new(tiers, config.matches.path.as_ref(), ipv6_prefix)),
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
        self.weigh(&values, facts, keys)
    }

    /// Judges a key.
    #[inline]
    pub(super) fn weigh<'p>(
        &'p self,
        values: &[Found<'_>],
        facts: &Facts<'_>,
        keys: &mut KeyBuf,
    ) -> Judgement<'p> {
        let start = keys.len();
        if let Some(descriptor) = facts.descriptor {
            // One domain is not another, whatever their descriptors say.
            keys.push_bytes(descriptor.domain);
        }
        let parts = keys.len();
        key::write(values, keys);
        let key = start..keys.len();
        // A limit that names no domain has one override for a key in all of them.
        let known = if self.matcher.domain().is_some() { start } else { parts }..key.end;
        // A key that is denied, or may do anything, is so with parts missing too.
        let (from, limit) = match self.quota(values, || keys.slice(known), facts) {
            (from, Some(Quota::Deny)) => return Judgement::Denied(from),
            (from, Some(Quota::Unlimited)) => return Judgement::Unlimited(from),
            (from, Some(Quota::Limit(limit))) => (from, limit),
            (from, None) => (from, &self.limit),
        };
        match self.key.lacks(values) {
            Some((part, Missing::Skip)) => return Judgement::Skipped(part),
            Some((part, _)) => return Judgement::Lacking(part),
            None => {}
        }
        let Ok(cost) = self.cost.read(facts).map_err(|BadCost| ()) else { return Judgement::BadCost };
        Judgement::Applies { limit, from, key, cost }
    }

    /// An override is about one key, a tier about many: the override wins, and the one that was given last wins
    /// over the file.
    #[inline]
    fn quota<'k>(
        &self,
        values: &[Found<'_>],
        key: impl FnOnce() -> Key<'k>,
        facts: &Facts<'_>,
    ) -> (QuotaFrom, Option<&Quota>) {
        if let Some((from, quota)) = self.overridden(values, key) {
            return (from, Some(quota));
        }
        match self.tiers.as_ref().and_then(|tiers| tiers.find(facts)) {
            Some((number, quota)) => (QuotaFrom::Tier(number), Some(quota)),
            None => (QuotaFrom::Limit, None),
        }
    }

    /// The override of a key, with where it stands.
    #[inline]
    pub(super) fn overridden<'k>(
        &self,
        values: &[Found<'_>],
        key: impl FnOnce() -> Key<'k>,
    ) -> Option<(QuotaFrom, &Quota)> {
        if let Some(quota) = self.live.as_ref().and_then(|live| live.find(key())) {
            return Some((QuotaFrom::Live, quota));
        }
        if !self.overrides.is_empty()
            && let Some((number, quota)) = self.overrides.find(values)
        {
            return Some((QuotaFrom::Override(number), quota));
        }
        None
    }

    /// Everything of a request that it reads.
    fn readers(&self) -> impl Iterator<Item = &Reader> {
        self.key.readers().chain(self.cost.reader()).chain(self.tiers.as_ref().map(Tiers::reader))
    }

    pub(super) fn looks_at_path(&self) -> bool {
        self.matcher.looks_at_path() || self.readers().any(Reader::looks_at_path)
    }

    /// The fields that it depends on.
    pub(super) fn fields(&self) -> Vec<&HeaderName> {
        let mut fields = Vec::new();
        self.matcher.fields(&mut fields);
        fields.extend(self.readers().filter_map(Reader::field));
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
