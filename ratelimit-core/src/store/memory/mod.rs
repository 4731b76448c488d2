//! [`MemoryStore`]: limits kept in this process.
//!
//! Each limit has a table of its own: 16 bytes a key and no copy of the key (64 more for a sliding window),
//! one compare-and-swap a decision, and no write at all for most denials. A key is known by 56 bits of a hash
//! that is keyed anew in every process; two of n live keys share an entry with a probability of about
//! n²/2⁵⁷ (one in a hundred thousand for a million keys), and sharing never admits more.
//!
//! Entries that have recovered are reused in passing; no background task is needed. An entry that has not
//! recovered is never dropped: at a table's capacity, keys without an entry share one ([`Overflow`]).

mod buckets;
mod entry;
mod kind;
mod operate;
mod record;
mod registry;
mod seeded;
mod segment;
mod slot;
mod table;
mod transaction;

#[cfg(all(test, ratelimit_loom))]
mod loom_tests;
#[cfg(all(test, not(ratelimit_loom)))]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests;

use std::fmt;

use smallvec::SmallVec;

use self::entry::swap;
use self::kind::Kind;
use self::operate::{NO_ROOM_RETRY, operate};
use self::registry::Registry;
use self::seeded::Seeded;
use self::slot::Tag;
use self::table::{Geometry, Table};
use self::transaction::{Part, decide_together};
use super::{Charge, LocalStore, Origin, Store, Verdict};
use crate::algorithm::{Fields, Moment, Op, Outcome, Program};
use crate::error::StoreError;
use crate::key::Key;
use crate::limit::Limit;
use crate::time::{Clock, Nanos, SystemClock};

/// Keys a limit can hold unless said otherwise.
const DEFAULT_KEYS: usize = 1_000_000;

/// What happens to keys for which a limit's table has no room.
///
/// Either way no key that has an entry loses it, so nobody can reset a victim's counter by inventing keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// Those of one part of the table (some thousand keys) share one entry, with the quota of a single key.
    /// The bound holds for each; what they get together is little.
    #[default]
    Share,
    /// They are denied, to be retried after a second.
    Deny,
}

/// Keeps limits in this process.
///
/// ```
/// use ratelimit_core::{Limit, Limiter, MemoryStore};
/// let limiter = Limiter::new(MemoryStore::default().max_keys(5_000_000));
/// let per_user = Limit::new("per-user", "100/s".parse()?);
/// assert!(limiter.try_check(&per_user, "ann").is_allowed());
/// # Ok::<(), ratelimit_core::RateError>(())
/// ```
pub struct MemoryStore<C = SystemClock> {
    clock: C,
    hash: Seeded,
    /// Of the key of limits that count everything together.
    global: Tag,
    tables: Registry,
    max_keys: usize,
    overflow: Overflow,
}

impl Default for MemoryStore {
    /// By the machine's clocks, with room for a million keys a limit.
    fn default() -> Self {
        Self::with_clock(SystemClock::default())
    }
}

impl<C: Clock> MemoryStore<C> {
    /// By that clock, with room for a million keys a limit.
    #[must_use]
    pub fn with_clock(clock: C) -> Self {
        let hash = Seeded::new();
        Self {
            clock,
            global: hash.tag(Key::GLOBAL),
            hash,
            tables: Registry::new(),
            max_keys: DEFAULT_KEYS,
            overflow: Overflow::default(),
        }
    }

    /// With room for at least so many keys a limit, at 24 bytes each (five times that for a sliding window;
    /// below a thousand keys somewhat more). Memory is taken as keys come, and kept; inventing keys can make it
    /// grow to 33 bytes (165) for each of `keys`, and no further.
    ///
    /// Keys are placed by their hash, which falls evenly but not exactly so. The room of each part of a table
    /// is seven standard deviations more than its share; that a limit holds `keys` keys or fewer and one of them
    /// still finds no room happens to fewer than one table in a million.
    #[must_use]
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// With another answer to keys beyond that.
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// How many keys of a limit have not fully recovered. Walks the limit's table: for gauges, not for requests.
    #[must_use]
    pub fn keys(&self, limit: &Limit) -> usize {
        self.table(limit).map_or(0, |table| table.live(&self.moment(table.kind().follows_calendar())))
    }

    /// How many decisions so far met a full table: they were made on a shared entry, or refused.
    #[must_use]
    pub fn overflowed(&self, limit: &Limit) -> u64 {
        self.table(limit).map_or(0, Table::overflowed)
    }

    /// Bytes that the entries of a limit take, used or not.
    #[must_use]
    pub fn bytes(&self, limit: &Limit) -> usize {
        self.table(limit).map_or(0, |table| table.slots() * if table.kind().has_record() { 80 } else { 16 })
    }

    fn table(&self, limit: &Limit) -> Option<&Table> {
        self.tables.table(limit, |kind| Table::new(kind, Geometry::for_keys(self.max_keys), self.overflow))
    }

    #[inline(always)]
    fn tag(&self, key: Key<'_>) -> Tag {
        self.hash.tag(key)
    }

    #[inline(always)]
    fn moment(&self, calendar: bool) -> Moment {
        Moment { now: self.clock.now(), utc: if calendar { self.clock.utc() } else { Nanos::ZERO } }
    }
}

impl<C: Clock> LocalStore for MemoryStore<C> {
    fn decide_now(&self, charges: &[Charge<'_>]) -> Verdict {
        let mut verdict = Verdict::empty();
        self.decide_into(charges, &mut verdict);
        verdict
    }

    fn decide_into(&self, charges: &[Charge<'_>], verdict: &mut Verdict) {
        verdict.origin = Origin::Store;
        if let [charge] = charges {
            let outcome = self.decide_one(*charge);
            verdict.admitted = outcome.admitted || charge.limit.is_shadow();
            verdict.outcomes.clear();
            verdict.outcomes.push(outcome);
        } else {
            self.decide_several(charges, verdict);
        }
    }

    #[inline(always)]
    fn decide_one(&self, charge: Charge<'_>) -> Outcome {
        // Nearly always a token bucket is charged whose key has an entry that nobody moves. This path is put in
        // line and kept in registers, and shares nothing with the other one that would have to be in memory for
        // it: moving an outcome about takes a processor longer than all arithmetic of the decision.
        let Op::Take(units) = charge.op else { return self.decide_anew(charge) };
        if let Program::TokenBucket(bucket) = charge.limit.program()
            && let Some(table) = self.tables.known(charge.limit.id(), Kind::Bucket)
            && let at = self.moment(false)
            && let Some(found) = table.find(self.tag(charge.key))
            && let Some(outcome) = swap(bucket, &found, &at, Op::Take(units))
        {
            return outcome;
        }
        let (lead, rest) = charge.key.parts();
        Outcome::from_fields(self.take_anew(charge.limit, u16::from_le_bytes(lead), rest, units))
    }
}

impl<C: Clock> MemoryStore<C> {
    /// Takes and gives back what fits into registers.
    #[inline(never)]
    fn take_anew(&self, limit: &Limit, lead: u16, rest: &[u8], units: u32) -> Fields {
        let key = Key::from_parts(lead.to_le_bytes(), rest);
        self.decide_anew(Charge { limit, key, op: Op::Take(units) }).into_fields()
    }

    fn decide_anew(&self, charge: Charge<'_>) -> Outcome {
        let Some(table) = self.table(charge.limit) else {
            return Outcome::refused(0, Some(NO_ROOM_RETRY));
        };
        let calendar = table.kind().follows_calendar();
        let tag = self.tag(charge.key);
        operate(table, tag, charge.limit.program(), charge.op, || self.moment(calendar))
    }
}

impl<C: Clock> MemoryStore<C> {
    #[inline(never)]
    fn decide_several(&self, charges: &[Charge<'_>], verdict: &mut Verdict) {
        let mut calendar = false;
        let mut parts = SmallVec::<[Part<'_>; 4]>::new();
        for charge in charges.iter().filter(|charge| charge.op.is_conditional()) {
            if let Some(table) = self.table(charge.limit) {
                calendar |= table.kind().follows_calendar();
                let tag = self.tag(charge.key);
                parts.push(Part { charge, table, tag, global: tag == self.global });
            }
        }
        let clock = || self.moment(calendar);
        verdict.admitted = decide_together(&parts, clock(), clock, &mut verdict.outcomes);
        if parts.len() < charges.len() {
            self.add_unconditional(charges, verdict);
        }
    }

    /// Makes the charges that follow from the conditional ones, whose outcomes are there.
    #[cold]
    fn add_unconditional(&self, charges: &[Charge<'_>], verdict: &mut Verdict) {
        let mut together = std::mem::take(&mut verdict.outcomes).into_iter();
        for charge in charges {
            verdict.outcomes.push(match charge.op {
                op if op.is_conditional() => together.next().unwrap_or(Outcome::refused(0, None)),
                op => {
                    // Nothing is changed by a request that is refused.
                    let op = if verdict.admitted { op } else { Op::Peek(0) };
                    self.decide_one(Charge { op, ..*charge })
                }
            });
        }
    }
}

impl<C: Clock> Store for MemoryStore<C> {
    #[inline]
    fn try_decide(&self, charges: &[Charge<'_>]) -> Option<Verdict> {
        Some(self.decide_now(charges))
    }

    #[inline]
    fn try_decide_into(&self, charges: &[Charge<'_>], verdict: &mut Verdict) -> bool {
        self.decide_into(charges, verdict);
        true
    }

    async fn decide(&self, charges: &[Charge<'_>]) -> Result<Verdict, StoreError> {
        Ok(self.decide_now(charges))
    }

    fn post(&self, charge: Charge<'_>) {
        let _ = self.decide_one(charge);
    }
}

impl<C> fmt::Debug for MemoryStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("max_keys", &self.max_keys)
            .field("overflow", &self.overflow)
            .finish()
    }
}
