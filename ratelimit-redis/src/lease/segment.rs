//! [`Segment`]: a piece of a key's time line that belongs to this replica.
//!
//! The store's token bucket is a time line on which each charged unit is a slot as long as the time in which
//! one unit comes back. A lease is one ordinary charge of many units; its slots `[next, end)` then belong to
//! the replica, which may use each **only until the slot's own time**. What time passes over has lapsed, at the
//! very moment at which a bucket without leases would have had it back.
//!
//! # Bound
//! Every unit spent at time x has a slot of its own `[v, v + T)` with `v ≥ x`, since [`Segment::spend`] never
//! goes behind now, and `v + T ≤ x + τ`, since the store admitted the charge at a time not after x. The store's
//! time line only moves on, so no two slots overlap, whoever owns them. All slots of what is spent within W lie
//! within W + τ: at most burst + W/T units, over all replicas together. Strict charges are the same thing with
//! nothing left over, so both mix on one key.
//!
//! An owner whose slots lie a little *earlier* than what it was granted keeps the bound; every rounding here and
//! in the replies goes that way.

use smallvec::SmallVec;

use super::Ticks;

/// Slots `[next, end)`, spent from the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    next: Ticks,
    end: Ticks,
    /// Its length when it was last added to.
    whole: Ticks,
}

/// What was spent, for [`Segment::put_back`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spent {
    before: Ticks,
    start: Ticks,
    after: Ticks,
}

impl Spent {
    /// Where on the time line it ended; tells it from all others of the key.
    #[must_use]
    pub const fn after(self) -> Ticks {
        self.after
    }
}

impl Segment {
    /// The slots of `length` that end at `end`.
    #[must_use]
    pub fn ending(end: Ticks, length: Ticks) -> Self {
        Self { next: end.minus(length), end, whole: length }
    }

    /// Takes slots of that length, none of which lies before `now`.
    pub fn spend(&mut self, now: Ticks, length: Ticks) -> Option<Spent> {
        let start = self.next.max(now);
        let after = start.plus(length);
        if after > self.end {
            return None;
        }
        let spent = Spent { before: self.next, start, after };
        self.next = after;
        Some(spent)
    }

    /// As `spend`, deliberately broken: slots may be used after their time. Only to show that tests see it.
    #[doc(hidden)]
    pub fn spend_after_its_time(&mut self, length: Ticks) -> Option<Spent> {
        self.spend(Ticks::ZERO, length)
    }

    /// Undoes `spend`, if nothing was spent since; whether it did.
    pub fn put_back(&mut self, spent: Spent) -> bool {
        let newest = self.next == spent.after && spent.before <= spent.after;
        if newest {
            self.next = spent.before;
        }
        newest
    }

    /// How much is left at `now`.
    #[must_use]
    pub fn left(&self, now: Ticks) -> Ticks {
        self.end.minus(self.next.max(now))
    }

    /// Time until all of it has lapsed.
    #[must_use]
    pub fn time_left(&self, now: Ticks) -> Ticks {
        self.end.minus(now)
    }

    /// Its length when it was last added to.
    #[must_use]
    pub const fn whole(&self) -> Ticks {
        self.whole
    }

    /// Where it ends.
    #[must_use]
    pub const fn end(&self) -> Ticks {
        self.end
    }

    /// Joins the piece that follows this one without a gap.
    fn join(&mut self, following: &Self) -> bool {
        let follows = self.end == following.next;
        if follows {
            self.whole = following.end.minus(self.next);
            self.end = following.end;
        }
        follows
    }
}

/// Most pieces a key keeps: two that were granted, and what was put back between them.
pub const PIECES: usize = 16;

/// The pieces a key has, earliest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Segments(SmallVec<[Segment; 2]>);

impl Segments {
    /// Takes slots of that length from the first piece that has them.
    pub fn spend(&mut self, now: Ticks, length: Ticks) -> Option<Spent> {
        self.0.iter_mut().find_map(|piece| piece.spend(now, length))
    }

    /// As `spend`, deliberately broken: slots may be used after their time. Only to show that tests see it.
    #[doc(hidden)]
    pub fn spend_after_its_time(&mut self, length: Ticks) -> Option<Spent> {
        self.0.iter_mut().find_map(|piece| piece.spend_after_its_time(length))
    }

    /// Adds a piece. Where there are too many, the one with the least left goes.
    pub fn add(&mut self, piece: Segment, now: Ticks) {
        self.drop_lapsed(now);
        if piece.left(now) == Ticks::ZERO {
            return;
        }
        if self.0.len() >= PIECES {
            let left = |&place: &usize| self.0.get(place).map(|have| have.left(now));
            let least = (0..self.0.len()).min_by_key(left);
            least.map(|place| self.0.remove(place));
        }
        // What lies first on the time line lapses first.
        let place = self.0.partition_point(|have| have.end < piece.end);
        self.0.insert(place, piece);
        self.join();
    }

    fn join(&mut self) {
        self.0.dedup_by(|piece, before| before.join(piece));
    }

    /// Undoes a `spend`: those slots are there again, as far as their time has not come.
    pub fn put_back(&mut self, spent: Spent, now: Ticks) {
        if self.0.iter_mut().any(|piece| piece.put_back(spent)) {
            self.join();
        } else {
            self.add(Segment::ending(spent.after, spent.after.minus(spent.start)), now);
        }
    }

    /// Gives back the last `length` of a charge that ended at `after`, once for each charge: the part that lies
    /// ahead of `now`, since time has given back the rest. Those slots are this replica's again, as they were
    /// before. Says how much it was.
    pub fn give_back(&mut self, after: Ticks, length: Ticks, now: Ticks) -> Ticks {
        let credit = length.min(after.minus(now));
        self.add(Segment::ending(after, credit), now);
        credit
    }

    /// How much is left at `now`.
    #[must_use]
    pub fn left(&self, now: Ticks) -> Ticks {
        self.pieces().fold(Ticks::ZERO, |sum, piece| sum.plus(piece.left(now)))
    }

    /// Most that a single charge could take at `now`.
    #[must_use]
    pub fn longest(&self, now: Ticks) -> Ticks {
        self.pieces().map(|piece| piece.left(now)).max().unwrap_or(Ticks::ZERO)
    }

    /// The pieces, earliest first.
    pub fn pieces(&self) -> impl Iterator<Item = &Segment> {
        self.0.iter()
    }

    /// Forgets what has lapsed; changes nothing that anybody could see.
    pub fn drop_lapsed(&mut self, now: Ticks) {
        self.0.retain(|piece| piece.left(now) > Ticks::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// What may happen to a key's pieces; numbers are slots.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Pass(u128),
        /// Slots that begin so far behind the end of the last.
        Grant(u128, u128),
        Spend(u128),
        /// Undoes one of the charges, or gives a part of it back.
        PutBack(usize),
        GiveBack(usize, u128),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..4_u128).prop_map(Event::Pass),
            (0..3_u128, 1..8_u128).prop_map(|(gap, length)| Event::Grant(gap, length)),
            (1..4_u128).prop_map(Event::Spend),
            (1..4_u128).prop_map(Event::Spend),
            (0..8_usize).prop_map(Event::PutBack),
            (0..8_usize, 1..4_u128).prop_map(|(which, length)| Event::GiveBack(which, length)),
        ]
    }

    proptest! {
        /// Against a map of single slots: none is spent that was not granted, none twice, none before now; what
        /// there is in one run is found.
        #[test]
        fn slots_are_spent_once_and_in_time(events in prop::collection::vec(event(), 1..60)) {
            let (mut now, mut end) = (0_u128, 0_u128);
            let mut free: HashMap<u128, bool> = HashMap::new();
            let mut pieces = Segments::default();
            let mut charges: Vec<(Spent, u128)> = Vec::new();
            for event in events {
                match event {
                    Event::Pass(time) => now += time,
                    Event::Grant(gap, length) => {
                        let start = end.max(now) + gap;
                        end = start + length;
                        free.extend((start..end).map(|slot| (slot, true)));
                        pieces.add(Segment::ending(Ticks::new(end), Ticks::new(length)), Ticks::new(now));
                    }
                    Event::Spend(length) => {
                        let runs = (now..end).any(|at| {
                            (at..at + length).all(|slot| free.get(&slot).copied().unwrap_or(false))
                        });
                        match pieces.spend(Ticks::new(now), Ticks::new(length)) {
                            Some(spent) => {
                                let after = spent.after().get();
                                prop_assert!(after - length >= now, "spent after its time");
                                for slot in after - length..after {
                                    prop_assert_eq!(free.insert(slot, false), Some(true), "slot {}", slot);
                                }
                                charges.push((spent, length));
                            }
                            None => prop_assert!(!runs, "{} were there at {}: {:?}", length, now, pieces),
                        }
                    }
                    Event::PutBack(which) if which < charges.len() => {
                        let (spent, length) = charges.swap_remove(which);
                        pieces.put_back(spent, Ticks::new(now));
                        let after = spent.after().get();
                        free.extend((after - length..after).map(|slot| (slot, true)));
                    }
                    Event::GiveBack(which, part) if which < charges.len() => {
                        let (spent, length) = charges.swap_remove(which);
                        let part = part.min(length);
                        let given = pieces.give_back(spent.after(), Ticks::new(part), Ticks::new(now)).get();
                        let after = spent.after().get();
                        prop_assert_eq!(given, part.min(after.saturating_sub(now)));
                        free.extend((after - given..after).map(|slot| (slot, true)));
                    }
                    Event::PutBack(_) | Event::GiveBack(..) => {}
                }
                if pieces.pieces().count() >= PIECES {
                    // From here on the smallest pieces are dropped, which is safe, and which this map does not know.
                    return Ok(());
                }
                let there = (now..end).filter(|slot| free.get(slot).copied().unwrap_or(false)).count();
                prop_assert_eq!(pieces.left(Ticks::new(now)).get(), there as u128, "{:?} at {}", pieces, now);
            }
        }
    }

    #[test]
    fn a_slot_cannot_be_spent_behind_now() {
        let mut piece = Segment::ending(Ticks::new(10), Ticks::new(10));
        assert!(piece.spend(Ticks::new(4), Ticks::new(3)).is_some(), "slots 4 to 6");
        assert_eq!(piece.left(Ticks::new(4)), Ticks::new(3));
        assert!(piece.spend(Ticks::new(8), Ticks::new(3)).is_none(), "only two are left at 8");
        let two = piece.spend(Ticks::new(8), Ticks::new(2)).unwrap();
        assert!(piece.put_back(two) && !piece.put_back(two), "once");
    }
}
