//! [`Holding`]: what a replica has of a key, on a time line or of a window.

use super::segment::{Segment, Segments, Spent as Slots};
use super::{Kind, Terms, Ticks};

/// Units of a window that may be spent until it, or its cell, ends.
///
/// They were charged to the counter that is current until then, and are spent while it is; so they are counted
/// exactly where they are spent, and no more are spent than were charged. What is left at the end lapses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Batch {
    units: u32,
    /// Units there were when it was last added to.
    whole: u32,
    /// Units that were granted in all: no more can be there, whatever is put back.
    granted: u32,
    until: Ticks,
}

/// What a replica has of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holding {
    /// Pieces of a token bucket's time line.
    Line(Segments),
    /// Units of a window.
    Batch(Batch),
}

/// What was spent, for [`Holding::put_back`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spent {
    /// Slots of a time line.
    Slots(Slots),
    /// Units of the batch that lapses then.
    Units(u32, Ticks),
}

impl Spent {
    /// What tells it from others on its key: the end of its slots, or of its window.
    #[must_use]
    pub const fn mark(self) -> Ticks {
        match self {
            Self::Slots(slots) => slots.after(),
            Self::Units(_, until) => until,
        }
    }
}

impl Holding {
    /// Nothing.
    #[must_use]
    pub fn none(kind: Kind) -> Self {
        match kind {
            Kind::Bucket => Self::Line(Segments::default()),
            Kind::Window => Self::Batch(Batch::default()),
        }
    }

    /// Takes that many units, if they are there and their time has not come.
    pub fn spend(&mut self, now: Ticks, units: u32, terms: &Terms) -> Option<Spent> {
        match self {
            Self::Line(line) => line.spend(now, terms.unit.times(units)).map(Spent::Slots),
            Self::Batch(batch) => {
                if now >= batch.until {
                    return None;
                }
                batch.units = batch.units.checked_sub(units)?;
                Some(Spent::Units(units, batch.until))
            }
        }
    }

    /// As `spend`, deliberately broken: whatever the time. Only to show that tests see it.
    #[doc(hidden)]
    pub fn spend_after_its_time(&mut self, units: u32, terms: &Terms) -> Option<Spent> {
        match self {
            Self::Line(line) => line.spend_after_its_time(terms.unit.times(units)).map(Spent::Slots),
            Self::Batch(_) => self.spend(Ticks::ZERO, units, terms),
        }
    }

    /// Undoes a `spend`, as far as its time has not come.
    pub fn put_back(&mut self, spent: Spent, now: Ticks) {
        match (self, spent) {
            (Self::Line(line), Spent::Slots(slots)) => line.put_back(slots, now),
            (Self::Batch(batch), Spent::Units(units, until)) if batch.until == until => {
                batch.units = batch.units.saturating_add(units).min(batch.granted);
            }
            _ => {}
        }
    }

    /// Gives back up to `units` of a charge by its mark, once for each charge, as far as time has not; says
    /// whether anything was.
    pub fn give_back(&mut self, mark: Ticks, units: u32, now: Ticks, terms: &Terms) -> bool {
        match self {
            Self::Line(line) => line.give_back(mark, terms.unit.times(units), now) > Ticks::ZERO,
            Self::Batch(batch) => {
                let same = batch.until == mark;
                self.put_back(Spent::Units(units, mark), now);
                same
            }
        }
    }

    /// Takes in what was granted: `units`, the last of which ends at `end`, or all of which lapse then.
    pub fn add(&mut self, units: u32, end: Ticks, now: Ticks, terms: &Terms) {
        match self {
            Self::Line(line) => line.add(Segment::ending(end, terms.unit.times(units)), now),
            Self::Batch(batch) => {
                let before = if batch.until == end { *batch } else { Batch::default() };
                let granted = before.granted.saturating_add(units);
                let units = before.units.saturating_add(units);
                *batch = Batch { units, whole: units, granted, until: end };
            }
        }
    }

    /// Units left at `now`.
    #[must_use]
    pub fn units(&self, now: Ticks, terms: &Terms) -> u32 {
        match self {
            Self::Line(line) => {
                line.pieces().fold(0, |sum: u32, piece| sum.saturating_add(piece.left(now).units(terms.unit)))
            }
            Self::Batch(batch) if now < batch.until => batch.units,
            Self::Batch(_) => 0,
        }
    }

    /// Most units that a single charge could take at `now`.
    #[must_use]
    pub fn most(&self, now: Ticks, terms: &Terms) -> u32 {
        match self {
            Self::Line(line) => line.longest(now).units(terms.unit),
            Self::Batch(_) => self.units(now, terms),
        }
    }

    /// Whether little is left: a quarter of what there was, and nothing after it.
    #[must_use]
    pub fn is_low(&self, now: Ticks) -> bool {
        match self {
            Self::Line(line) => {
                // The earlier of several pieces has its successor already.
                let mut pieces = line.pieces().filter(|piece| piece.left(now) > Ticks::ZERO);
                let (Some(piece), None) = (pieces.next(), pieces.next()) else { return false };
                piece.left(now) <= Ticks::new(piece.whole().get() / 4)
            }
            Self::Batch(batch) => now < batch.until && batch.units > 0 && batch.units <= batch.whole / 4,
        }
    }

    /// Whether of the little that [is left](Self::is_low) nothing lasts for `ahead`, given that `taken` of it are
    /// taken meanwhile: then the next piece should be asked for now, so that it is here in time.
    #[must_use]
    pub fn ends_within(&self, now: Ticks, ahead: Ticks, taken: u32, terms: &Terms) -> bool {
        match self {
            Self::Line(line) => {
                let needed = terms.unit.times(taken);
                line.pieces().all(|piece| piece.left(now) <= needed || piece.time_left(now) <= ahead)
            }
            Self::Batch(batch) => batch.units <= taken,
        }
    }

    /// Whether nothing is left that could ever be spent.
    #[must_use]
    pub fn is_empty(&self, now: Ticks) -> bool {
        match self {
            Self::Line(line) => line.left(now) == Ticks::ZERO,
            Self::Batch(batch) => batch.units == 0 || now >= batch.until,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use ratelimit_core::{Algorithm, Limit};

    #[test]
    fn what_is_put_back_after_more_was_granted_is_there_again() {
        let limit = Limit::new("l", "100/s".parse().unwrap()).algorithm(Algorithm::FixedWindow);
        let terms = Terms::of(&limit).unwrap();
        let (now, end) = (Ticks::new(1), Ticks::new(9));
        let mut holding = Holding::none(Kind::Window);
        holding.add(3, end, now, &terms);
        let spent = holding.spend(now, 3, &terms).unwrap();
        holding.add(2, end, now, &terms);
        holding.put_back(spent, now);
        assert_eq!(holding.units(now, &terms), 5);
        holding.put_back(spent, now);
        assert_eq!(holding.units(now, &terms), 5, "never more than was granted");
    }
}
