//! Several entries, all or nothing.
//!
//! First every entry is looked at: one "no" decides, and nothing was written. Otherwise all entries but the
//! last are locked in one order that is the same for everybody, the last is swapped without being locked, and
//! the new states are stored, which unlocks. An entry whose word is still the one that was looked at has been
//! judged already; any other is judged again under its lock. The order puts keys that everybody shares (limits
//! without key) last, so the hottest entry is never locked. Whoever waits holds only entries that come earlier
//! in the order, so nobody waits in a circle. A "yes" takes effect at the swap, a "no" at the look that failed;
//! so no request is refused that some serial order would admit.
//!
//! Between the first lock and the last store nothing can panic or block: no allocation, no foreign code, only
//! steps of algorithms.

use smallvec::SmallVec;

use super::buckets::decide_usual;
use super::entry::{absent, attempt, step, step_word, write};
use super::operate::{NO_ROOM_RETRY, marked};
use super::segment::Found;
use super::slot::{Patience, Tag, Word};
use super::table::{Inserted, Table};
use crate::algorithm::{Moment, Op, Outcome, Program};
use crate::store::{Charge, Outcomes};

/// One charge of the request and where its key lives.
pub(super) struct Part<'a> {
    pub(super) charge: &'a Charge<'a>,
    pub(super) table: &'a Table,
    pub(super) tag: Tag,
    /// Whether it is the key of limits that count everything together. It must follow from the tag.
    pub(super) global: bool,
}

/// The order in which everybody locks. Equal only for the same entry.
pub(super) type Rank = (bool, u64, usize);

impl<'a> Part<'a> {
    #[inline(always)]
    pub(super) fn rank(&self, found: &Found<'a>) -> Rank {
        let shared_by_all = self.global && !found.is_overflow();
        (shared_by_all, self.charge.limit.id().get(), std::ptr::from_ref(found.slot).addr())
    }
}

/// What one part charges, apart from its outcome.
struct Member<'a> {
    part: &'a Part<'a>,
    /// `None`: there is no slot for the key.
    found: Option<Found<'a>>,
    /// Of all parts that share the entry: how many units, and whether they are taken or only asked for.
    units: u32,
    takes: bool,
    /// The state that follows from the word in `found`, if it is another. A record's is worked out when it is
    /// written.
    next: Option<u128>,
}

/// In the order of the parts.
type Members<'a> = SmallVec<[Member<'a>; 4]>;
/// Of the members that have an entry, the order in which everybody locks.
type Order = SmallVec<[usize; 4]>;
/// Members that have another one's entry, with that other one.
type Twins = SmallVec<[(usize, usize); 2]>;

/// Decides the conditional charges of a request together. Outcomes come in the order of the parts.
pub(super) fn decide_together(
    parts: &[Part<'_>],
    mut at: Moment,
    clock: impl Fn() -> Moment,
    outcomes: &mut Outcomes,
) -> bool {
    if let Some(admitted) = decide_usual(parts, &at, outcomes) {
        return admitted;
    }
    loop {
        let mut members = Members::new();
        // Pushed, not collected: what is collected is moved as a whole once more, here and below.
        for part in parts {
            let found = entry_of(part, &mut at, &clock);
            members.push(Member::new(part, found));
        }
        let (order, twins) = order(&mut members);
        outcomes.clear();
        let Some(admitted) = all_or_nothing(&mut members, &order, &at, outcomes) else { continue };
        if !admitted && look_at_all(&members, &at, outcomes).is_none() {
            continue;
        }
        for (twin, of) in twins {
            let told = outcomes.get(of).copied();
            if let (Some(outcome), Some(told)) = (outcomes.get_mut(twin), told) {
                *outcome = told;
            }
        }
        return admitted;
    }
}

/// The entry of a part's key, made if need be; then the time is read again.
#[inline(always)]
fn entry_of<'a>(part: &Part<'a>, at: &mut Moment, clock: &impl Fn() -> Moment) -> Option<Found<'a>> {
    match part.table.find(part.tag) {
        Some(found) if !found.word.is_locked() => Some(found),
        _ => wait_or_insert(part, at, clock),
    }
}

#[cold]
fn wait_or_insert<'a>(part: &Part<'a>, at: &mut Moment, clock: &impl Fn() -> Moment) -> Option<Found<'a>> {
    let table: &'a Table = part.table;
    let mut patience = Patience::default();
    loop {
        if let Some(found) = table.find(part.tag) {
            if !found.word.is_locked() {
                return Some(found);
            }
            patience.wait();
            continue;
        }
        match table.insert(part.tag, clock) {
            Inserted::New(found, now) => {
                *at = now;
                return Some(found);
            }
            Inserted::Again => {}
            Inserted::Full(found) => return found,
        }
    }
}

/// The order, and of the members that have the same entry as another one, each with that other one, which is
/// charged for both.
#[inline(always)]
fn order(members: &mut Members<'_>) -> (Order, Twins) {
    let (mut order, mut twins) = (Order::new(), Twins::new());
    for index in 0..members.len() {
        let Some(rank) = members.get(index).and_then(Member::rank) else { continue };
        // Insertion sort from the end: there are two or three members, and one order suits every request.
        let rank_of = |index: &usize| members.get(*index).and_then(Member::rank);
        let before = order.iter().rposition(|other| rank_of(other) <= Some(rank));
        match before.and_then(|before| order.get(before)) {
            Some(&same) if rank_of(&same) == Some(rank) => {
                join(members, same, index);
                twins.push((index, same));
            }
            _ => order.insert(before.map_or(0, |before| before + 1), index),
        }
    }
    (order, twins)
}

/// Parts that share an entry are charged in sum.
#[cold]
fn join(members: &mut Members<'_>, index: usize, other: usize) {
    let Some((units, takes)) = members.get(other).map(|member| (member.units, member.takes)) else { return };
    if let Some(member) = members.get_mut(index) {
        member.units = match (member.takes, takes) {
            (true, true) => member.units.saturating_add(units),
            (false, true) => units,
            (_, false) => member.units,
        };
        member.takes |= takes;
    }
}

/// `None`: an entry has moved; begin anew.
#[inline(always)]
fn all_or_nothing(
    members: &mut Members<'_>,
    order: &[usize],
    at: &Moment,
    outcomes: &mut Outcomes,
) -> Option<bool> {
    // A look without locks settles most denials.
    for member in members.iter_mut() {
        if !member.look(at, outcomes)? {
            return Some(false);
        }
    }
    let Some((&last, earlier)) = order.split_last() else { return Some(true) };
    for (number, &index) in earlier.iter().enumerate() {
        let judged = match (members.get_mut(index), outcomes.get_mut(index)) {
            (Some(member), Some(outcome)) => member.lock(at, outcome),
            _ => None,
        };
        if judged != Some(true) {
            let locked = if judged.is_some() { number + 1 } else { number };
            unlock(members, earlier.get(..locked).unwrap_or(earlier));
            return judged;
        }
    }
    let judged = match (members.get_mut(last), outcomes.get_mut(last)) {
        (Some(member), Some(outcome)) => member.swap(at, outcome),
        _ => None,
    };
    if judged != Some(true) {
        unlock(members, earlier);
        return judged;
    }
    for &index in earlier {
        if let Some(member) = members.get(index) {
            member.commit(at);
        }
    }
    Some(true)
}

#[cold]
fn unlock(members: &Members<'_>, locked: &[usize]) {
    locked.iter().filter_map(|&index| members.get(index)).for_each(Member::unlock);
}

/// What every limit has left when the request is refused; `None`: an entry has moved.
#[inline(never)]
fn look_at_all(members: &Members<'_>, at: &Moment, outcomes: &mut Outcomes) -> Option<()> {
    outcomes.clear();
    for member in members {
        outcomes.push(member.peek(at)?);
    }
    Some(())
}

impl<'a> Member<'a> {
    #[inline(always)]
    fn new(part: &'a Part<'a>, found: Option<Found<'a>>) -> Self {
        let (units, takes) = match part.charge.op {
            Op::Take(units) => (units, true),
            Op::Peek(units) => (units, false),
            _ => (0, false),
        };
        Self { part, found, units, takes, next: None }
    }

    #[inline(always)]
    fn program(&self) -> &'a Program {
        self.part.charge.limit.program()
    }

    #[inline(always)]
    fn op(&self) -> Op {
        if self.takes { Op::Take(self.units) } else { Op::Peek(self.units) }
    }

    /// Its place in the order; `None` without an entry. Equal only for the same entry.
    #[inline(always)]
    fn rank(&self) -> Option<Rank> {
        self.found.as_ref().map(|found| self.part.rank(found))
    }

    /// Whether this limit lets the request through.
    #[inline(always)]
    fn passes(&self, outcome: &Outcome) -> bool {
        outcome.admitted || self.part.charge.limit.is_shadow()
    }

    /// Whether the word is all of the state.
    #[inline(always)]
    fn is_word(&self) -> bool {
        !matches!(self.program(), Program::SlidingWindow(_))
    }

    /// Judges the word that was found and tells whether it passes; a record, which takes its lock, is asked
    /// without being charged.
    #[inline(always)]
    fn look(&mut self, at: &Moment, outcomes: &mut Outcomes) -> Option<bool> {
        // Nearly always it is a token bucket whose entry nobody moves. Its outcome is kept in registers until it is
        // written where it is told, because it never meets one that has to be in memory.
        if let Program::TokenBucket(bucket) = self.program()
            && let Some(found) = &self.found
            && !found.word.is_locked()
            && !found.is_overflow()
        {
            let (next, outcome) = bucket.step(found.word.state(), at.now, self.op());
            self.next = next;
            let passes = self.passes(&outcome);
            outcomes.push(outcome);
            return Some(passes);
        }
        let outcome = self.look_at_any(at)?;
        outcomes.push(outcome);
        Some(self.passes(&outcome))
    }

    #[inline(never)]
    fn look_at_any(&mut self, at: &Moment) -> Option<Outcome> {
        if !self.is_word() {
            return self.peek(at);
        }
        let (program, op) = (self.program(), self.op());
        let Some(found) = &mut self.found else { return Some(no_room(self.part, at)) };
        if found.word.is_locked() {
            let word = found.slot.unlocked();
            found.word = Some(word).filter(|word| word.is(found.tag()))?;
        }
        let (next, outcome) = step_word(program, found.word, at, op);
        self.next = next;
        Some(marked(outcome, found))
    }

    /// Asks without charging.
    #[inline(never)]
    fn peek(&self, at: &Moment) -> Option<Outcome> {
        let Some(found) = &self.found else { return Some(no_room(self.part, at)) };
        Some(marked(attempt(self.program(), found, at, Op::Peek(self.units))?, found))
    }

    /// Locks the entry, judging it anew if it is not the one that was looked at. `None`, and not locked: the
    /// entry has moved.
    #[inline(always)]
    fn lock(&mut self, at: &Moment, outcome: &mut Outcome) -> Option<bool> {
        let found = self.found.as_ref()?;
        if self.is_word() && found.slot.replace(found.word, found.word.locked()).is_ok() {
            return Some(true);
        }
        self.lock_changed(at, outcome)
    }

    #[inline(never)]
    fn lock_changed(&mut self, at: &Moment, outcome: &mut Outcome) -> Option<bool> {
        let (program, op, is_word) = (self.program(), self.op(), self.is_word());
        let found = self.found.as_mut()?;
        found.word = found.slot.lock(found.tag())?;
        let judged = if is_word {
            let (next, judged) = step_word(program, found.word, at, op);
            self.next = next;
            judged
        } else {
            step(program, found, found.word, at, op).1
        };
        *outcome = marked(judged, found);
        Some(self.passes(outcome))
    }

    /// As [`Member::lock`] and [`Member::commit`] in one, without a lock where the word is all.
    #[inline(always)]
    fn swap(&mut self, at: &Moment, outcome: &mut Outcome) -> Option<bool> {
        if !self.is_word() {
            return self.swap_record(at, outcome);
        }
        let found = self.found.as_ref()?;
        let now = match self.next {
            Some(next) => found.slot.replace(found.word, found.word.with_state(next)).err(),
            // What is not changed must still be so.
            None => Some(found.slot.load()).filter(|&now| now != found.word),
        };
        match now {
            None => Some(true),
            Some(now) => self.swap_changed(now, at, outcome),
        }
    }

    #[inline(never)]
    fn swap_changed(&mut self, now: Word, at: &Moment, outcome: &mut Outcome) -> Option<bool> {
        let (program, op) = (self.program(), self.op());
        let found = self.found.as_mut()?;
        found.word = Some(now).filter(|now| now.is(found.tag()))?;
        *outcome = marked(attempt(program, found, at, op)?, found);
        Some(self.passes(outcome))
    }

    #[inline(never)]
    fn swap_record(&mut self, at: &Moment, outcome: &mut Outcome) -> Option<bool> {
        let passes = self.lock_changed(at, outcome)?;
        if passes {
            self.commit(at);
        } else {
            self.unlock();
        }
        Some(passes)
    }

    /// Writes what was judged, which unlocks.
    #[inline(always)]
    fn commit(&self, at: &Moment) {
        let Some(found) = &self.found else { return };
        if self.is_word() {
            found.slot.store(self.next.map_or(found.word, |next| found.word.with_state(next)));
        } else {
            self.commit_record(found, at);
        }
    }

    #[inline(never)]
    fn commit_record(&self, found: &Found<'_>, at: &Moment) {
        let (next, _) = step(self.program(), found, found.word, at, self.op());
        write(found, found.word, next);
    }

    fn unlock(&self) {
        if let Some(found) = &self.found {
            found.slot.store(found.word);
        }
    }
}

#[cold]
fn no_room(part: &Part<'_>, at: &Moment) -> Outcome {
    let (_, outcome) = absent(part.charge.limit.program(), at, Op::Peek(0));
    Outcome::refused(0, Some(NO_ROOM_RETRY)).with_reset_after(outcome.reset_after)
}
