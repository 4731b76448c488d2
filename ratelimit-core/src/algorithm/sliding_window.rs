//! Sliding window, conservative: a ring of sub-windows that are all counted in full.
//!
//! The window W is cut into ten cells of w = ⌈W/10⌉ that are aligned to the clock. The ring keeps the
//! counts of the current cell and the ten before it; a charge is admitted if the sum of all eleven stays
//! within the limit, and is added to the current cell.
//!
//! # Bound
//! An interval of length W ≤ 10·w meets at most eleven aligned cells. When its last charge was admitted, all
//! its charges lay in the eleven cells whose sum was tested; so it holds at most the limit, exactly, and there
//! is no second burst at a boundary. Capacity comes back when a cell leaves the ring: never early, and late
//! by at most one cell.
//!
//! The well-known estimate from two counters (`current + previous · share left`) needs less state, but admits
//! up to twice the limit less one in a single window.

use super::{HELD_UP, Op, Outcome, Receipt};
use crate::time::Nanos;

/// Cells in a ring: ten make a window, one more because the interval need not be aligned.
pub const CELLS: usize = 11;
const SPAN: u64 = CELLS as u64;

/// A sliding window's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlidingWindow {
    limit: u32,
    debt: u32,
    window: Nanos,
    /// Nanoseconds in a cell.
    cell: u64,
}

/// A key's state. The default is the empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// Counts, oldest first; the last is the current cell's.
    pub cells: [u32; CELLS],
    /// Number of the current cell: time divided by the length of a cell.
    pub index: u64,
    /// Nanoseconds in a cell when this was written; 0: never written.
    pub cell: u64,
}

impl Ring {
    /// When the last count leaves the ring; from then on it equals the empty one.
    #[must_use]
    pub const fn expires(&self) -> Nanos {
        if self.cell == 0 {
            return Nanos::ZERO;
        }
        Nanos::new(self.index.saturating_add(SPAN).saturating_mul(self.cell))
    }

    fn sum(&self) -> u64 {
        self.cells.iter().map(|&count| u64::from(count)).sum()
    }

    /// Moves on to cell number `index`, dropping what is older than the ring.
    fn advance(&mut self, index: u64) {
        let cells = usize::try_from(index.saturating_sub(self.index)).unwrap_or(CELLS).min(CELLS);
        self.cells.copy_within(cells.., 0);
        self.cells.iter_mut().rev().take(cells).for_each(|count| *count = 0);
        self.index = self.index.max(index);
    }

    /// Puts everything that is still counted into one cell.
    fn gathered(&self, index: u64, cell: u64) -> Self {
        let mut ring = Self { cells: [0; CELLS], index, cell };
        if let Some(current) = ring.cells.last_mut() {
            *current = u32::try_from(self.sum()).unwrap_or(u32::MAX);
        }
        ring
    }
}

impl SlidingWindow {
    /// At most `limit` units in every interval as long as `window`, `debt` units beyond it. `None` for zeros.
    #[must_use]
    pub fn new(limit: u32, window: Nanos, debt: u32) -> Option<Self> {
        let cell = window.get().div_ceil(SPAN - 1);
        (limit > 0 && cell > 0).then_some(Self { limit, debt, window, cell })
    }

    /// Most units in a window.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Length of the window.
    #[must_use]
    pub const fn window(&self) -> Nanos {
        self.window
    }

    /// The ring as it stands at `now`, and whether it had to be [cut](super#cuts) for that.
    fn current(&self, ring: Ring, now: Nanos) -> (Ring, bool) {
        let index = now.get() / self.cell;
        if ring.cell == 0 {
            return (Ring { cells: [0; CELLS], index, cell: self.cell }, false);
        }
        if ring.cell != self.cell {
            // The window's length changed. What still counted by the old one counts as if it were new:
            // never early, late by at most one new window.
            let mut old = ring;
            old.advance(now.get() / ring.cell);
            return (old.gathered(index, self.cell), true);
        }
        if ring.index > now.saturating_add(HELD_UP).get() / self.cell {
            // The clock stepped back: what was charged since counts as if it were new.
            return (ring.gathered(index, self.cell), true);
        }
        let mut ring = ring;
        ring.advance(index);
        (ring, false)
    }

    /// One step; `None` in the first place: the state stays as it is. A refused step may return a state that
    /// was [cut](super#cuts).
    #[must_use]
    pub fn step(&self, ring: Ring, now: Nanos, op: Op) -> (Option<Ring>, Outcome) {
        let (mut ring, cut) = self.current(ring, now);
        let used = ring.sum();
        let limit = u64::from(self.limit);
        match op {
            Op::Take(units) | Op::Peek(units) => {
                let wanted = used + u64::from(units);
                if units > self.limit {
                    (None, self.outcome(&ring, now, used, None, false))
                } else if wanted > limit {
                    let retry = self.time_of_room(&ring, wanted - limit).saturating_sub(now);
                    (cut.then_some(ring), self.outcome(&ring, now, used, Some(retry), false))
                } else if units == 0 || matches!(op, Op::Peek(_)) {
                    (None, self.outcome(&ring, now, used, None, true))
                } else {
                    add(&mut ring, units);
                    (Some(ring), self.outcome(&ring, now, wanted, None, true))
                }
            }
            Op::Debit(units) => {
                let most = (limit + u64::from(self.debt)).saturating_sub(used);
                add(&mut ring, u32::try_from(most).unwrap_or(u32::MAX).min(units));
                (Some(ring), self.outcome(&ring, now, ring.sum(), None, true))
            }
            Op::Refund(units, receipt) => {
                let before = ring;
                match receipt {
                    Some(charge) => give_back_at(&mut ring, units, charge),
                    None => give_back_newest(&mut ring, units),
                }
                ((ring != before).then_some(ring), self.outcome(&ring, now, ring.sum(), None, true))
            }
            Op::Reset => {
                let empty = Ring { cells: [0; CELLS], ..ring };
                ((used > 0).then_some(empty), self.outcome(&empty, now, 0, None, true))
            }
            // Counts are counts; a ring of another length was gathered above.
            Op::Rescale(_) => (cut.then_some(ring), self.outcome(&ring, now, used, None, true)),
        }
    }

    /// When so many of the oldest units have left that `need` more fit.
    fn time_of_room(&self, ring: &Ring, need: u64) -> Nanos {
        let mut leaving = 0;
        let mut beginning = ring.index;
        for &count in &ring.cells {
            beginning = beginning.saturating_add(1);
            leaving += u64::from(count);
            if leaving >= need {
                break;
            }
        }
        Nanos::new(beginning.saturating_mul(self.cell))
    }

    fn outcome(
        &self,
        ring: &Ring,
        now: Nanos,
        used: u64,
        retry_after: Option<Nanos>,
        admitted: bool,
    ) -> Outcome {
        let empty_for = ring.cells.iter().rev().take_while(|&&count| count == 0).count();
        let newest = u64::try_from(CELLS - empty_for).unwrap_or(SPAN);
        // The newest count lies in cell `index - 11 + newest` and leaves when the eleventh after it begins.
        let reset_at =
            if newest == 0 { 0 } else { ring.index.saturating_add(newest).saturating_mul(self.cell) };
        Outcome {
            admitted,
            room: u64::from(self.limit).saturating_sub(used).into(),
            unit: 1,
            reset_after: Nanos::new(reset_at).saturating_sub(now),
            retry_after,
            receipt: Receipt::new(mark(ring)),
        }
    }
}

fn add(ring: &mut Ring, units: u32) {
    if let Some(current) = ring.cells.last_mut() {
        *current = current.saturating_add(units);
    }
}

/// The current cell: its number and its length, since a window of another length numbers its cells otherwise.
fn mark(ring: &Ring) -> u128 {
    u128::from(ring.cell) << 64 | u128::from(ring.index)
}

/// Out of the cell that was charged, if it is still in the ring.
fn give_back_at(ring: &mut Ring, units: u32, charge: Receipt) {
    let age = mark(ring).checked_sub(charge.mark()).and_then(|age| usize::try_from(age).ok());
    if let Some(count) = age.and_then(|age| ring.cells.iter_mut().rev().nth(age)) {
        *count = count.saturating_sub(units);
    }
}

fn give_back_newest(ring: &mut Ring, units: u32) {
    let mut left = units;
    for count in ring.cells.iter_mut().rev() {
        let given = left.min(*count);
        *count -= given;
        left -= given;
    }
}
