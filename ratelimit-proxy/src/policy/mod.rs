//! [`Policy`]: a configuration's limits, compiled once. [`Policy::select`] says which of them a request meets,
//! by which key, with which quota and at what cost. Pure: no clock, no I/O, no store.
//!
//! Nothing is parsed twice, and a request that meets no more than four limits costs no memory of its own
//! unless it is written in an odd way (a field on several lines, escapes in a value).

mod cost;
mod explain;
mod key;
mod live;
mod matcher;
mod named;
mod overrides;
mod pattern;
mod route;
mod rule;
mod source;
mod survey;
mod tiers;
mod written;

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use ratelimit_core::{KeyBuf, Limit};
use smallvec::SmallVec;

pub use self::cost::Ending;
pub use self::explain::{Effect, Explained, ExplainedPart, ExplainedQuestion, Explanation, InForce, Leases};
pub use self::live::Live;
use self::matcher::Matcher;
pub(crate) use self::named::NotNamed;
pub(crate) use self::route::Route;
use self::route::Routes;
use self::rule::Judgement;
pub use self::rule::{Rule, RuleMode};
pub use self::written::{KeyFault, WrittenKey, WrittenPart};
use crate::config::{ClientIp, Config, Late, LimitConfig, Match, Upstream};
use crate::facts::Facts;
use crate::identity::Identity;

/// A compiled configuration.
#[derive(Clone, Debug)]
pub struct Policy {
    identity: Identity,
    exempt: Box<[Matcher]>,
    rules: Box<[Rule]>,
    routes: Routes,
    /// What each rule is counted as: its number in the metrics.
    series: Box<[usize]>,
    /// Fields that limits or the client's address depend on.
    fields: Box<[HeaderName]>,
    /// Whether one of them has an underscore in its name.
    underscores: bool,
    path_scoped: bool,
    ipv6_prefix: u8,
}

/// What a request was matched to.
#[derive(Debug, Default)]
pub struct Selection<'p> {
    /// The limits to be asked, in the order of the file.
    pub hits: SmallVec<[Hit<'p>; 4]>,
    /// Indices of limits in shadow mode that would have denied it without asking a store.
    pub shadowed: SmallVec<[usize; 2]>,
    /// It is never limited and never counted.
    pub exempt: bool,
}

/// One limit and its key.
#[derive(Debug)]
pub struct Hit<'p> {
    /// Index of the rule.
    pub rule: usize,
    /// The limit, with the quota that is in force for the key.
    pub limit: &'p Limit,
    /// Where its key lies.
    pub key: Range<usize>,
    /// What it costs.
    pub cost: u32,
    /// Whether a permit is held.
    pub holds: bool,
    /// How the end of the request decides what it costs.
    pub late: Option<&'p Arc<Late>>,
    /// Whether any quota that is left admits it.
    pub overdraft: bool,
    /// What is done with the cost.
    pub how: How,
}

/// What is done with a cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum How {
    /// It is charged if all limits admit it.
    #[default]
    Charge,
    /// Nothing: it is asked whether one unit would be admitted.
    Ask,
    /// It is given back.
    GiveBack,
}

/// What limits make of a request without asking a store, beside a [`Selection`].
#[derive(Debug, Default)]
pub(crate) struct Met<'p> {
    /// The limits that deny it, with their numbers in the metrics.
    pub(crate) denied: SmallVec<[(usize, &'p Limit); 2]>,
    /// Whether an override or a tier frees it from some limit.
    pub(crate) unlimited: bool,
}

/// A no without a store.
#[derive(Debug)]
pub enum Refusal<'p> {
    /// Keys are denied by an override, or missing where they must not be: the limits that say so with the numbers
    /// of their rules in the metrics, one at least. Whatever the others' counters say, they are not asked.
    Denied(SmallVec<[(usize, &'p Limit); 2]>),
    /// The request gives a part of the key several times, with different values.
    AmbiguousKey {
        /// The rule's number in the metrics.
        rule: usize,
    },
    /// The cost that the request names is no number.
    BadCost {
        /// The rule's number in the metrics.
        rule: usize,
    },
}

impl<'p> Met<'p> {
    /// Takes in what a limit makes of it.
    #[inline]
    fn add(
        &mut self,
        rule: &'p Rule,
        number: usize,
        judgement: Judgement<'p>,
        selection: &mut Selection<'p>,
    ) -> Result<(), Refusal<'p>> {
        match judgement {
            Judgement::Applies { limit, key, cost, .. } => {
                let holds = limit.spec().permits.is_some();
                selection.hits.push(Hit {
                    rule: number,
                    limit,
                    key,
                    cost,
                    holds,
                    late: rule.late.as_ref(),
                    overdraft: rule.overdraft,
                    how: How::Charge,
                });
            }
            Judgement::Unlimited(_) => self.unlimited = true,
            Judgement::Off | Judgement::Elsewhere(_) | Judgement::Skipped(_) => {}
            _ if rule.mode() == RuleMode::Shadow => selection.shadowed.push(number),
            Judgement::Lacking(_) | Judgement::Denied(_) => self.denied.push((number, &rule.limit)),
            Judgement::Ambiguous(_) => return Err(Refusal::AmbiguousKey { rule: number }),
            Judgement::BadCost => return Err(Refusal::BadCost { rule: number }),
        }
        Ok(())
    }
}

impl Policy {
    /// Compiles the parts of a configuration that say who is limited by what.
    #[must_use]
    pub fn build(client_ip: &ClientIp, exempt: &[Match], limits: &[LimitConfig]) -> Self {
        let identity = Identity::new(client_ip);
        let let_off = |written| Matcher::new(written, matcher::Effect::LetsOff);
        let exempt: Box<[Matcher]> = exempt.iter().map(let_off).collect();
        let rules: Box<[Rule]> = limits.iter().map(|limit| Rule::new(limit, client_ip.ipv6_prefix)).collect();
        let live = || rules.iter().filter(|rule| rule.mode() != RuleMode::Off);
        let mut fields: Vec<_> = live().flat_map(Rule::fields).chain(identity.header()).collect();
        exempt.iter().for_each(|matcher| matcher.fields(&mut fields));
        fields.sort_unstable_by_key(|name| name.as_str());
        fields.dedup();
        Self {
            underscores: fields.iter().any(|name| name.as_str().contains('_')),
            fields: fields.into_iter().cloned().collect(),
            path_scoped: exempt.iter().any(Matcher::looks_at_path) || live().any(Rule::looks_at_path),
            identity,
            exempt,
            series: (0..rules.len()).collect(),
            rules,
            routes: Routes::default(),
            ipv6_prefix: client_ip.ipv6_prefix,
        }
    }

    /// With these upstreams to choose from, instead of one that takes everything.
    fn routed(mut self, upstreams: &[Upstream], ipv6_prefix: u8) -> Self {
        self.routes = Routes::new(upstreams, ipv6_prefix);
        self.path_scoped |= self.routes.looks_at_path();
        self
    }

    /// Compiles a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self::build(&config.client_ip, &config.exempt, &config.limits)
            .routed(&config.upstreams, config.client_ip.ipv6_prefix)
    }

    /// Counts its limits under these numbers instead of those of their places, in their order.
    #[must_use]
    pub(crate) fn counted_as(mut self, series: Vec<usize>) -> Self {
        self.series = series.into();
        self
    }

    /// With these overrides instead of those that were given at run time before.
    #[must_use]
    pub(crate) fn overridden(mut self, live: impl Fn(&Rule) -> Live) -> Self {
        for rule in &mut self.rules {
            rule.live = Some(live(rule)).filter(|live| !live.is_empty()).map(Arc::new);
        }
        self
    }

    /// The limit of that name.
    #[must_use]
    pub fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.limit.name() == name)
    }

    /// The address of the client behind `peer`, as proxies that are trusted tell it; not masked.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        self.identity.client(peer, headers)
    }

    /// Whether a peer is a proxy whose word is taken.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.identity.trusts(peer)
    }

    /// An address as limits by client count it: an IPv6 one is its network.
    #[must_use]
    pub fn network(&self, address: IpAddr) -> IpAddr {
        source::masked(address, self.ipv6_prefix)
    }

    /// The field that trusted proxies tell the client's address in, if there are any.
    #[must_use]
    pub fn told_by(&self) -> Option<&HeaderName> {
        self.identity.header()
    }

    /// Whether a limit, an exemption or the client's address depends on that field. It must reach the upstream
    /// as it was judged: no `Connection` may nominate it away, no twin (`X_Api_Key`) stand in for it.
    #[must_use]
    pub fn is_key(&self, name: &HeaderName) -> bool {
        self.fields.contains(name)
    }

    /// Whether upstreams that take `_` for `-` in names (CGI, WSGI and their kin) would read that field as one
    /// that [`Policy::is_key`]. A limit never reads it, so it must not reach them.
    #[must_use]
    pub fn is_twin(&self, name: &HeaderName) -> bool {
        let is_same = |key: &HeaderName| {
            key.as_str().len() == name.as_str().len() && folded(key).eq(folded(name)) && key != name
        };
        self.fields.iter().any(is_same) && !self.is_key(name)
    }

    /// Whether fields without `_` in their names can be twins, because a limit depends on one that has it.
    #[must_use]
    pub fn has_underscores(&self) -> bool {
        self.underscores
    }

    /// Whether some limit, exemption or upstream looks at the path, so that it must have one reading.
    #[must_use]
    pub fn path_scoped(&self) -> bool {
        self.path_scoped
    }

    /// The limits that a request meets. Their keys are appended to `keys`.
    ///
    /// # Errors
    /// A limit says no, or can't be asked, whatever its counters say. Then none of them is to be charged.
    pub fn select<'p>(&'p self, facts: &Facts<'_>, keys: &mut KeyBuf) -> Result<Selection<'p>, Refusal<'p>> {
        let mut selection = Selection::default();
        let Met { denied, .. } = self.meet(facts, keys, &mut selection)?;
        if denied.is_empty() { Ok(selection) } else { Err(Refusal::Denied(denied)) }
    }

    /// As [`Policy::select`], added to what was selected before, and with who says no.
    #[inline]
    pub(crate) fn meet<'p>(
        &'p self,
        facts: &Facts<'_>,
        keys: &mut KeyBuf,
        selection: &mut Selection<'p>,
    ) -> Result<Met<'p>, Refusal<'p>> {
        let mut met = Met::default();
        if self.exemption(facts).is_some() {
            selection.exempt = true;
            return Ok(met);
        }
        for (rule, &number) in self.rules.iter().zip(&self.series) {
            met.add(rule, number, rule.judge(facts, keys), selection)?;
        }
        Ok(met)
    }

    /// Where a request goes; `None` if nowhere. `keys` is room to write in.
    #[inline]
    pub(crate) fn route(&self, facts: &Facts<'_>, keys: &mut KeyBuf) -> Option<Route> {
        self.routes.find(facts, keys)
    }

    /// All limits, in the order of the file, switched-off ones included.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The first exemption that a request meets, with its number.
    fn exemption(&self, facts: &Facts<'_>) -> Option<(usize, &Matcher)> {
        self.exempt.iter().enumerate().find(|(_, matcher)| matcher.fails(facts).is_none())
    }
}

/// A name as those read it who take `_` for `-`.
fn folded(name: &HeaderName) -> impl Iterator<Item = u8> {
    name.as_str().bytes().map(|byte| if byte == b'_' { b'-' } else { byte })
}

#[cfg(test)]
mod tests;
