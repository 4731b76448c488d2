//! Stand-in until the compiled policy lands: every request meets every limit, keyed by client address.

use std::net::IpAddr;
use std::ops::Range;

use http::{HeaderMap, HeaderName};
use ratelimit_core::{KeyBuf, Limit};
use smallvec::SmallVec;

use crate::facts::Facts;

/// A compiled configuration.
#[derive(Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// One limit.
#[derive(Debug)]
pub struct Rule {
    /// Its numbers.
    pub limit: Limit,
}

/// What a request was matched to.
#[derive(Debug)]
pub struct Selection<'p> {
    /// One for each limit.
    pub hits: SmallVec<[Hit<'p>; 4]>,
}

/// One limit and its key.
#[derive(Debug)]
pub struct Hit<'p> {
    /// Index of the rule.
    pub rule: usize,
    /// The limit.
    pub limit: &'p Limit,
    /// Where its key lies.
    pub key: Range<usize>,
    /// What it costs.
    pub cost: u32,
    /// Whether a permit is held.
    pub holds: bool,
}

/// A no without a store.
#[derive(Debug)]
pub enum Refusal<'p> {
    /// Denied.
    Denied {
        /// Index of the rule.
        rule: usize,
        /// The limit.
        limit: &'p Limit,
    },
    /// The cost is no number.
    BadCost {
        /// Index of the rule.
        rule: usize,
    },
}

impl Policy {
    /// These limits for every request, by client address.
    #[must_use]
    pub fn of(limits: Vec<Limit>) -> Self {
        Self { rules: limits.into_iter().map(|limit| Rule { limit }).collect() }
    }

    /// The client.
    #[must_use]
    pub fn client(&self, peer: IpAddr, _headers: &HeaderMap) -> IpAddr {
        peer
    }

    /// Whether the peer's word is taken.
    #[must_use]
    pub fn trusts(&self, _peer: IpAddr) -> bool {
        false
    }

    /// Whether some limit is by that field.
    #[must_use]
    pub fn is_key(&self, _name: &HeaderName) -> bool {
        false
    }

    /// Whether paths matter.
    #[must_use]
    pub fn path_scoped(&self) -> bool {
        true
    }

    /// The limits of a request.
    pub fn select<'p>(&'p self, facts: &Facts<'_>, keys: &mut KeyBuf) -> Result<Selection<'p>, Refusal<'p>> {
        let mut hits = SmallVec::new();
        for (rule, Rule { limit }) in self.rules.iter().enumerate() {
            let start = keys.len();
            keys.push_ip(facts.client);
            let holds = limit.spec().permits.is_some();
            hits.push(Hit { rule, limit, key: start..keys.len(), cost: 1, holds });
        }
        Ok(Selection { hits })
    }

    /// All limits.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}
