//! Several entries, all or nothing, as it nearly always is: token buckets that enforce, all of whose keys have an
//! entry of their own that nobody moves meanwhile.
//!
//! The same protocol as in [`transaction`](super::transaction), with arrays in place of vectors. At anything else it
//! has changed nothing and says nothing, and the general way begins anew.

use super::slot::{Slot, Word};
use super::transaction::{Part, Rank};
use crate::algorithm::{Gcra, Moment, Op, Outcome, Program};
use crate::store::Outcomes;

/// One key's entry as it was seen.
struct Entry<'a> {
    bucket: &'a Gcra,
    units: u32,
    slot: &'a Slot,
    rank: Rank,
    old: Word,
    /// What it will be if all limits admit.
    new: Word,
}

/// Decides the charges of a request together, with outcomes in their order; `None`: the general way has to.
#[inline(always)]
pub(super) fn decide_usual(parts: &[Part<'_>], at: &Moment, outcomes: &mut Outcomes) -> Option<bool> {
    match parts.len() {
        2 => decide_buckets(parts.first_chunk::<2>()?, at, outcomes),
        3 => decide_buckets(parts.first_chunk::<3>()?, at, outcomes),
        4 => decide_buckets(parts.first_chunk::<4>()?, at, outcomes),
        _ => None,
    }
}

#[inline(always)]
fn decide_buckets<const N: usize>(
    parts: &[Part<'_>; N],
    at: &Moment,
    outcomes: &mut Outcomes,
) -> Option<bool> {
    // Made before, not pushed: an outcome is in registers, and goes from there to where it is told.
    outcomes.resize(N, Outcome::refused(0, None));
    let mut places = outcomes.iter_mut();
    let mut admitted = true;
    let entries = parts.each_ref().map(|part| look(part, at, places.next()?, &mut admitted));
    let mut order = entries.each_ref().map(Option::as_ref);
    order.sort_unstable_by_key(|entry| entry.map(|entry| entry.rank));
    // What is missing comes first. Charges that share an entry have to be added up.
    let Some(Some(_)) = order.first() else { return None };
    if order.windows(2).any(|pair| matches!(pair, [Some(one), Some(two)] if one.rank == two.rank)) {
        return None;
    }
    if !admitted {
        return peek_all(&entries, at, outcomes);
    }
    let (last, earlier) = order.split_last()?;
    for (number, entry) in earlier.iter().flatten().enumerate() {
        if entry.slot.replace(entry.old, entry.old.locked()).is_err() {
            return unlock(earlier.iter().flatten().take(number));
        }
    }
    if last.is_none_or(|last| last.slot.replace(last.old, last.new).is_err()) {
        return unlock(earlier.iter().flatten());
    }
    // Which unlocks.
    earlier.iter().flatten().for_each(|entry| entry.slot.store(entry.new));
    Some(true)
}

#[inline(always)]
fn look<'a>(part: &Part<'a>, at: &Moment, outcome: &mut Outcome, admitted: &mut bool) -> Option<Entry<'a>> {
    let Program::TokenBucket(bucket) = part.charge.limit.program() else { return None };
    let Op::Take(units @ 1..) = part.charge.op else { return None };
    let found = part.table.find(part.tag)?;
    if found.word.is_locked() || part.charge.limit.is_shadow() {
        return None;
    }
    let (next, judged) = bucket.step(found.word.state(), at.now, Op::Take(units));
    *admitted &= judged.admitted;
    *outcome = judged;
    let new = next.map_or(found.word, |next| found.word.with_state(next));
    Some(Entry { bucket, units, slot: found.slot, rank: part.rank(&found), old: found.word, new })
}

/// What every limit has left when the request is refused. A state that has to be cut is left to the general way.
#[inline(never)]
fn peek_all<const N: usize>(
    entries: &[Option<Entry<'_>>; N],
    at: &Moment,
    outcomes: &mut Outcomes,
) -> Option<bool> {
    for (entry, outcome) in entries.iter().flatten().zip(outcomes) {
        let (next, peeked) = entry.bucket.step(entry.old.state(), at.now, Op::Peek(entry.units));
        if next.is_some() {
            return None;
        }
        *outcome = peeked;
    }
    Some(false)
}

#[cold]
fn unlock<'a>(locked: impl Iterator<Item = &'a &'a Entry<'a>>) -> Option<bool> {
    locked.for_each(|entry| entry.slot.store(entry.old));
    None
}
