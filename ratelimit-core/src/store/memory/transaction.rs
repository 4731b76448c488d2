//! Several entries, all or nothing.
//!
//! First every entry is looked at: one "no" decides, and nothing was written. Otherwise all entries but the
//! last are locked in one order that is the same for everybody, each is judged again, the last is judged and
//! swapped without being locked, and the new states are stored, which unlocks. The order puts keys that
//! everybody shares (limits without key) last, so the hottest entry is never locked. Whoever waits holds only
//! entries that come earlier in the order, so nobody waits in a circle. A "yes" takes effect at the swap, a
//! "no" at the look that failed; so no request is refused that some serial order would admit.
//!
//! Between the first lock and the last store nothing can panic or block: no allocation, no foreign code, only
//! steps of algorithms.

use smallvec::SmallVec;

use super::entry::{Next, absent, attempt, step, write};
use super::operate::{NO_ROOM_RETRY, marked};
use super::segment::Found;
use super::slot::{Patience, Tag, Word};
use super::table::{Inserted, Table};
use crate::algorithm::{Moment, Op, Outcome};
use crate::store::{Charge, Outcomes};

/// One charge of the request and where its key lives.
pub(super) struct Part<'a> {
    pub(super) charge: &'a Charge<'a>,
    pub(super) table: &'a Table,
    pub(super) tag: Tag,
}

/// One entry that the request charges: several parts may share it.
struct Member<'a> {
    part: &'a Part<'a>,
    found: Found<'a>,
    op: Op,
    /// The word as it was before it was locked.
    word: Word,
    next: Next,
    outcome: Outcome,
}

/// Parts of one request, each with the member that decides it; `None`: refused for want of a slot.
type Members<'a> = SmallVec<[Member<'a>; 4]>;

/// Decides the conditional charges of a request together. Outcomes come in the order of the parts.
pub(super) fn decide_together(
    parts: &SmallVec<[Part<'_>; 4]>,
    mut at: Moment,
    clock: impl Fn() -> Moment,
) -> (bool, Outcomes) {
    loop {
        let mut members: Members<'_> = SmallVec::new();
        let mut of_part: SmallVec<[Option<usize>; 4]> = SmallVec::new();
        for part in parts {
            let member = entry_of(part, &mut at, &clock);
            of_part.push(member.map(|found| join(&mut members, part, found)));
        }
        let enough_room =
            of_part.iter().zip(parts).all(|(of, part)| of.is_some() || part.charge.limit.is_shadow());
        sort(&mut members, &mut of_part);
        let judged = if enough_room { all_or_nothing(&mut members, &at) } else { Some(false) };
        let Some(admitted) = judged else { continue };
        if !admitted && !look_at_all(&mut members, &at) {
            continue;
        }
        let outcome = |(of, part): (&Option<usize>, &Part<'_>)| {
            let member = of.and_then(|index| members.get(index));
            member.map_or_else(|| no_room(part, &at), |member| marked(member.outcome, &member.found))
        };
        return (admitted, of_part.iter().zip(parts).map(outcome).collect());
    }
}

/// The entry of a part's key, made if need be; then the time is read again.
fn entry_of<'a>(part: &Part<'a>, at: &mut Moment, clock: &impl Fn() -> Moment) -> Option<Found<'a>> {
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

/// Adds a part to the members; parts that share an entry are charged in sum.
fn join<'a>(members: &mut Members<'a>, part: &'a Part<'a>, found: Found<'a>) -> usize {
    let shared =
        members.iter_mut().enumerate().find(|(_, member)| std::ptr::eq(member.found.slot, found.slot));
    if let Some((index, member)) = shared {
        member.op = match (member.op, part.charge.op) {
            (Op::Take(one), Op::Take(other)) => Op::Take(one.saturating_add(other)),
            (Op::Take(one), _) | (_, Op::Take(one)) => Op::Take(one),
            (one, _) => one,
        };
        return index;
    }
    let (word, outcome) = (found.word, Outcome::refused(0, None));
    members.push(Member { part, found, op: part.charge.op, word, next: Next::Keep, outcome });
    members.len() - 1
}

/// The one order in which everybody locks.
fn sort(members: &mut Members<'_>, of_part: &mut [Option<usize>]) {
    let rank = |member: &Member<'_>| {
        let shared_by_all = member.part.charge.key.is_global() && !member.found.is_overflow();
        (shared_by_all, member.part.charge.limit.id(), std::ptr::from_ref(member.found.slot).addr())
    };
    // Insertion sort that keeps the parts' references: there are two or three members.
    for end in 1..members.len() {
        for index in (1..=end).rev() {
            let in_order = match (members.get(index - 1), members.get(index)) {
                (Some(before), Some(after)) => rank(before) <= rank(after),
                _ => true,
            };
            if in_order {
                break;
            }
            members.swap(index - 1, index);
            for of in of_part.iter_mut().flatten() {
                if *of == index {
                    *of = index - 1;
                } else if *of == index - 1 {
                    *of = index;
                }
            }
        }
    }
}

/// `None`: an entry has moved; begin anew.
fn all_or_nothing(members: &mut Members<'_>, at: &Moment) -> Option<bool> {
    // A look without locks settles most denials.
    for member in members.iter_mut() {
        member.look(at)?;
        if !member.passes() {
            return Some(false);
        }
    }
    let Some((last, earlier)) = members.split_last_mut() else { return Some(true) };
    for index in 0..earlier.len() {
        let judged = earlier.get_mut(index).and_then(|member| member.lock_and_judge(at));
        if judged != Some(true) {
            let locked = if judged.is_some() { index + 1 } else { index };
            earlier.iter().take(locked).for_each(Member::unlock);
            return judged;
        }
    }
    let judged = last.judge_and_swap(at);
    for member in earlier.iter() {
        if judged == Some(true) { member.commit() } else { member.unlock() }
    }
    judged
}

/// What every limit has left when the request is refused; false: an entry has moved.
fn look_at_all(members: &mut Members<'_>, at: &Moment) -> bool {
    members.iter_mut().all(|member| member.look(at).is_some())
}

fn no_room(part: &Part<'_>, at: &Moment) -> Outcome {
    let (_, outcome) = absent(part.charge.limit.program(), at, Op::Peek(0));
    Outcome::refused(0, Some(NO_ROOM_RETRY)).with_reset_after(outcome.reset_after)
}

impl Member<'_> {
    /// Whether this limit lets the request through.
    fn passes(&self) -> bool {
        self.outcome.admitted || self.part.charge.limit.is_shadow()
    }

    /// Asks without charging.
    #[inline]
    fn look(&mut self, at: &Moment) -> Option<()> {
        let op = match self.op {
            Op::Take(units) => Op::Peek(units),
            other => other,
        };
        self.outcome = attempt(self.part.charge.limit.program(), &self.found, at, op)?;
        Some(())
    }

    /// Locks the entry and works out what becomes of it; `None`, and not locked: the entry has moved.
    fn lock_and_judge(&mut self, at: &Moment) -> Option<bool> {
        self.word = self.found.slot.lock(self.found.tag())?;
        (self.next, self.outcome) =
            step(self.part.charge.limit.program(), &self.found, self.word, at, self.op);
        Some(self.passes())
    }

    /// As [`Member::lock_and_judge`] and [`Member::commit`] in one, without a lock where the word is all.
    fn judge_and_swap(&mut self, at: &Moment) -> Option<bool> {
        if self.found.record().is_some() {
            let passes = self.lock_and_judge(at)?;
            if passes {
                self.commit()
            } else {
                self.unlock()
            }
            return Some(passes);
        }
        self.outcome = attempt(self.part.charge.limit.program(), &self.found, at, self.op)?;
        Some(self.passes())
    }

    fn commit(&self) {
        write(&self.found, self.word, self.next);
    }

    fn unlock(&self) {
        self.found.slot.store(self.word);
    }
}
