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
        let after = self.next.max(now).plus(length);
        if after > self.end {
            return None;
        }
        let spent = Spent { before: self.next, after };
        self.next = after;
        Some(spent)
    }

    /// As `spend`, deliberately broken: slots may be used after their time. Only to show that tests see it.
    #[doc(hidden)]
    pub fn spend_after_its_time(&mut self, length: Ticks) -> Option<Spent> {
        self.spend(Ticks::ZERO, length)
    }

    /// Undoes `spend`, if nothing was spent since; otherwise the slots lapse.
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

    /// Joins the piece that lies right behind this one or right before it.
    fn join(&mut self, other: &Self) -> bool {
        if self.end == other.next {
            self.whole = other.end.minus(self.next);
            self.end = other.end;
            return true;
        }
        let before = other.end == self.next;
        if before {
            self.next = other.next;
        }
        before
    }
}

/// Most pieces a key keeps.
pub const PIECES: usize = 4;

/// The pieces a key has, earliest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Segments([Option<Segment>; PIECES]);

impl Segments {
    /// Takes slots of that length from the first piece that has them.
    pub fn spend(&mut self, now: Ticks, length: Ticks) -> Option<Spent> {
        self.0.iter_mut().flatten().find_map(|piece| piece.spend(now, length))
    }

    /// As `spend`, deliberately broken: slots may be used after their time. Only to show that tests see it.
    #[doc(hidden)]
    pub fn spend_after_its_time(&mut self, length: Ticks) -> Option<Spent> {
        self.0.iter_mut().flatten().find_map(|piece| piece.spend_after_its_time(length))
    }

    /// Adds a piece. Where there are too many, the one with the least left goes.
    pub fn add(&mut self, piece: Segment, now: Ticks) {
        self.drop_lapsed(now);
        if piece.left(now) == Ticks::ZERO || self.0.iter_mut().flatten().any(|have| have.join(&piece)) {
            return;
        }
        let place = self.0.iter_mut().min_by_key(|have| have.map_or(Ticks::ZERO, |have| have.left(now)));
        if let Some(place) = place {
            *place = Some(piece);
        }
        // What was granted first lies first on the time line.
        self.0.sort_by_key(|have| have.map_or(u128::MAX, |have| have.end.get()));
    }

    /// Undoes a `spend`, if nothing was spent of that piece since.
    pub fn put_back(&mut self, spent: Spent) -> bool {
        self.0.iter_mut().flatten().any(|piece| piece.put_back(spent))
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
        self.0.iter().flatten()
    }

    /// Forgets what has lapsed; changes nothing that anybody could see.
    pub fn drop_lapsed(&mut self, now: Ticks) {
        for have in &mut self.0 {
            *have = have.filter(|piece| piece.left(now) > Ticks::ZERO);
        }
    }
}
