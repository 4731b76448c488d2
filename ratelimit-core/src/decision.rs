//! [`Decision`]: what the limits said to one request.

use std::borrow::Cow;

use crate::algorithm::Outcome;
use crate::limit::Limit;
use crate::store::{Origin, Verdict};
use crate::time::Nanos;

/// Allowed or denied, with what every limit has left.
///
/// Borrows the limits it is about; [`Decision::into_owned`] keeps it beyond them.
#[derive(Clone, Debug)]
#[must_use = "a decision is only worth something to who looks at it"]
pub struct Decision<'a> {
    admitted: bool,
    origin: Origin,
    /// Apart, because nearly every decision is about one limit and is only asked whether it admits.
    first: Part<'a>,
    more: More<'a>,
}

/// The other limits of a request.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "up to four limits are decided without allocating")]
enum More<'a> {
    None,
    Few([Option<Part<'a>>; 3]),
    Many(Vec<Part<'a>>),
}

/// One limit and what it said.
#[derive(Clone, Debug)]
struct Part<'a> {
    /// `None` only in the first part of a decision about no limit.
    limit: Option<Cow<'a, Limit>>,
    outcome: Outcome,
}

impl<'a> Decision<'a> {
    #[inline(always)]
    pub(crate) fn one(limit: &'a Limit, outcome: Outcome) -> Self {
        Self {
            admitted: outcome.admitted || limit.is_shadow(),
            origin: Origin::Store,
            first: Part { limit: Some(Cow::Borrowed(limit)), outcome },
            more: More::None,
        }
    }

    /// Joins a store's answer with the limits it was asked about, in the order of the charges.
    pub fn new(limits: impl IntoIterator<Item = &'a Limit>, verdict: Verdict) -> Self {
        let mut decision = Self::of_nothing();
        decision.fill(limits, &verdict);
        decision
    }

    /// The same, in memory of its own from the start.
    #[must_use]
    pub fn boxed(limits: impl IntoIterator<Item = &'a Limit>, verdict: &Verdict) -> Box<Self> {
        let mut decision = Box::new(Self::of_nothing());
        decision.fill(limits, verdict);
        decision
    }

    /// About no limit, and denied: to be filled.
    pub(crate) const fn of_nothing() -> Self {
        let first = Part { limit: None, outcome: Outcome::admitted(u32::MAX) };
        Self { admitted: false, origin: Origin::Store, first, more: More::None }
    }

    /// As [`Decision::new`], in the place where the decision stays: so many bytes take longer to move than a
    /// limit to decide.
    pub(crate) fn fill(&mut self, limits: impl IntoIterator<Item = &'a Limit>, verdict: &Verdict) {
        self.admitted = verdict.admitted;
        self.origin = verdict.origin;
        let mut parts = limits
            .into_iter()
            .zip(&verdict.outcomes)
            .map(|(limit, outcome)| Part { limit: Some(Cow::Borrowed(limit)), outcome: *outcome });
        if let Some(first) = parts.next() {
            self.first = first;
        }
        let more = verdict.outcomes.len().saturating_sub(1);
        if more > 3 {
            self.more = More::Many(parts.collect());
        } else if more > 0 {
            self.more = More::Few([None, None, None]);
            if let More::Few(few) = &mut self.more {
                few.iter_mut().zip(parts).for_each(|(place, part)| *place = Some(part));
            }
        }
    }

    /// Whether the request may go on.
    #[must_use]
    #[inline]
    pub const fn is_allowed(&self) -> bool {
        self.admitted
    }

    /// Who answered.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// The limit that binds: of those that said no the one with the longest wait, else the one with the
    /// smallest share left. `None` only for a decision about no limit.
    #[must_use]
    pub fn limit(&self) -> Option<&Limit> {
        self.binding().map(|(limit, _)| limit)
    }

    /// Units the binding limit has left.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.binding().map_or(u32::MAX, |(_, outcome)| outcome.remaining())
    }

    /// Time until the binding limit is fully recovered, if nothing else is charged.
    #[must_use]
    pub fn reset_after(&self) -> Nanos {
        self.binding().map_or(Nanos::ZERO, |(_, outcome)| outcome.reset_after)
    }

    /// When denied: the shortest wait after which the same request would be admitted, if nothing else is
    /// charged meanwhile. `None` when allowed.
    #[must_use]
    pub fn retry_after(&self) -> Option<Nanos> {
        if self.admitted {
            return None;
        }
        self.denials().filter_map(|(_, outcome)| outcome.retry_after).max()
    }

    /// Every limit with what it said, in the order they were asked.
    pub fn limits(&self) -> impl Iterator<Item = (&Limit, &Outcome)> {
        self.parts().filter_map(|part| Some((part.limit.as_deref()?, &part.outcome)))
    }

    /// The enforcing limits that said no.
    pub fn denials(&self) -> impl Iterator<Item = (&Limit, &Outcome)> {
        self.limits().filter(|(limit, outcome)| !outcome.admitted && !limit.is_shadow())
    }

    /// The same, independent of where the limits live.
    pub fn into_owned(self) -> Decision<'static> {
        let own = |part: Part<'_>| Part {
            limit: part.limit.map(|limit| Cow::Owned(limit.into_owned())),
            outcome: part.outcome,
        };
        let more = match self.more {
            More::None => More::None,
            More::Few(parts) => More::Few(parts.map(|part| part.map(own))),
            More::Many(parts) => More::Many(parts.into_iter().map(own).collect()),
        };
        Decision { admitted: self.admitted, origin: self.origin, first: own(self.first), more }
    }

    fn parts(&self) -> impl Iterator<Item = &Part<'a>> {
        let first = std::iter::once(&self.first).filter(|part| part.limit.is_some());
        let (few, many) = match &self.more {
            More::None => (&[][..], &[][..]),
            More::Few(parts) => (&parts[..], &[][..]),
            More::Many(parts) => (&[][..], &parts[..]),
        };
        first.chain(few.iter().flatten()).chain(many)
    }

    /// The limit that binds with what it said. Shadow limits speak for a request only where no other does.
    pub(crate) fn binding(&self) -> Option<(&Limit, &Outcome)> {
        let part = match self.more {
            More::None => &self.first,
            _ => self.binding_of_several()?,
        };
        Some((part.limit.as_deref()?, &part.outcome))
    }

    fn binding_of_several(&self) -> Option<&Part<'a>> {
        let enforcing = self.parts().any(|part| !part.is_shadow());
        self.parts()
            .filter(|part| !enforcing || !part.is_shadow())
            .min_by(|a, b| b.pressure().cmp(&a.pressure()))
    }
}

impl Part<'_> {
    fn is_shadow(&self) -> bool {
        self.limit.as_deref().is_some_and(Limit::is_shadow)
    }

    /// Greater for what binds more: a refusal by its wait, anything else by the share used.
    fn pressure(&self) -> (bool, u64) {
        let outcome = &self.outcome;
        if !outcome.admitted {
            return (true, outcome.retry_after.unwrap_or(Nanos::MAX).get());
        }
        let capacity = u64::from(self.limit.as_deref().map_or(1, Limit::capacity));
        let left = u64::from(outcome.remaining());
        (false, u64::from(u32::MAX) - (left << 31) / capacity.max(left).max(1))
    }
}
