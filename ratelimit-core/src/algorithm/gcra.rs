//! Token bucket, kept as one integer: the generic cell rate algorithm in its virtual scheduling form
//! (ITU-T I.371, ATM Forum Traffic Management 4.0).
//!
//! The state is the *theoretical arrival time* TAT, the moment at which the bucket will be full again.
//! A charge of n units moves it by n·T, where T is the time in which one unit comes back; the charge is
//! admitted if TAT then lies at most τ = burst·T ahead of now.
//!
//! # Bound
//! In every interval of length W at most burst + W/T units are admitted. Give each admitted charge the piece
//! `[max(TAT, now), max(TAT, now) + n·T)` of the time line. The pieces do not overlap, none starts before its
//! own decision, none ends later than τ after it; so all that belong to decisions within W lie within W + τ.
//! Nothing in this needs decisions to see the clock in order.
//!
//! A refund by receipt takes the part of a charge's piece off that still lies ahead, and what remains of all
//! charges keeps the bound. Later pieces move up by as much, which their receipts do not know: a charge that
//! is refunded after *earlier* ones were may be credited more than lies ahead of it, at most by what those
//! were credited. One integer cannot tell; so the sum of what receipts may give back too much is at most what
//! was refunded before them on the same key while they were out.
//!
//! # Unit
//! A tick is 2⁻¹⁰ ns. T is rounded *up* to whole ticks, so the rate is never above the one asked for, and at
//! 10 000 000 a second (102 400 ticks) still within 10 ppm of it. Every sum below stays under 2⁷¹ for clocks
//! up to 36 years from their origin, beyond which time stands still.

use super::{HELD_UP, Op, Outcome, Receipt};
use crate::time::Nanos;

/// log₂ of the ticks in a nanosecond.
const TICK_BITS: u32 = 10;
/// Times and spans stay below this many ticks (36 years).
const HORIZON: u128 = 1 << 70;
/// The last nanosecond before time stands still.
const LAST_NANO: u64 = (1 << 60) - 1;

/// A token bucket's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gcra {
    /// T: ticks in which one unit comes back.
    interval: u128,
    /// τ: ticks in which an empty bucket fills.
    tolerance: u128,
    /// D: ticks the balance may go below zero.
    debt: u128,
    burst: u32,
}

impl Gcra {
    /// `count` units in `period`, at most `burst` at once, `debt` units below zero. `None` when the numbers are
    /// zero or filling the bucket from the deepest debt would take more than 36 years.
    #[must_use]
    pub fn new(count: u32, period: Nanos, burst: u32, debt: u32) -> Option<Self> {
        if count == 0 || burst == 0 || period == Nanos::ZERO {
            return None;
        }
        let interval = (u128::from(period.get()) << TICK_BITS).div_ceil(u128::from(count));
        let tolerance = interval * u128::from(burst);
        let debt = interval * u128::from(debt);
        (tolerance + debt < HORIZON).then_some(Self { interval, tolerance, debt, burst })
    }

    /// Most units that can be taken at once.
    #[must_use]
    pub const fn burst(&self) -> u32 {
        self.burst
    }

    /// Time in which one unit comes back, in units of 2⁻¹⁰ ns.
    #[must_use]
    pub const fn interval_ticks(&self) -> u128 {
        self.interval
    }

    /// Time in which an empty bucket fills, rounded up.
    #[must_use]
    pub fn refill(&self) -> Nanos {
        to_nanos(self.tolerance)
    }

    /// Whether an entry in this state equals an absent one.
    #[must_use]
    pub fn is_recovered(tat: u128, now: Nanos) -> bool {
        tat <= to_ticks(now)
    }

    /// One step; `None` in the first place: the state stays as it is. A refused step may return a state that
    /// was [cut](super#cuts).
    #[inline(always)]
    #[must_use]
    pub fn step(&self, tat: u128, now: Nanos, op: Op) -> (Option<u128>, Outcome) {
        let now = to_ticks(now);
        let full = now + self.tolerance;
        // Further ahead than any charge could have brought it: the clock stepped back or the quota shrank.
        let most = full + self.debt;
        let cut = tat > most + to_ticks(HELD_UP);
        let base = if cut { most } else { tat.max(now) };
        match op {
            Op::Take(units) | Op::Peek(units) => {
                if units > self.burst {
                    return (None, self.outcome(now, base, base, None, false));
                }
                let after = base + self.interval * u128::from(units);
                if after > full {
                    let refused = self.outcome(now, base, base, Some(to_nanos(after - full)), false);
                    return (cut.then_some(base), refused);
                }
                if units == 0 || matches!(op, Op::Peek(_)) {
                    return (None, self.outcome(now, base, base, None, true));
                }
                (Some(after), self.outcome(now, after, after, None, true))
            }
            Op::Debit(units) => {
                // Never less than it was: `now` may be behind that of who charged before.
                let after = (base + self.interval * u128::from(units)).min(most).max(base);
                (Some(after), self.outcome(now, after, after, None, true))
            }
            Op::Refund(units, receipt) => {
                let gross = self.interval * u128::from(units);
                // What lies before now on the time line has come back by itself.
                let credit = receipt.map_or(gross, |charge| gross.min(charge.mark().saturating_sub(now)));
                let after = base.saturating_sub(credit).max(now);
                ((after < tat).then_some(after), self.outcome(now, after, after, None, true))
            }
            Op::Reset => ((tat != 0).then_some(0), self.outcome(now, now, now, None, true)),
            Op::Rescale(former) => {
                // Not from the base, which was cut by the new quota. Rounded up to nanoseconds, so that the product
                // stays below 2¹²⁰; never less than the share used, and at most two nanoseconds more.
                let used = u128::from(to_nanos(tat.saturating_sub(now)).get());
                let (from, to) = (u128::from(former.get()), u128::from(self.refill().get()));
                let used = if from == 0 { used } else { (used * to).div_ceil(from) };
                let after = if tat > now { (now + (used.min(HORIZON) << TICK_BITS)).min(most) } else { tat };
                (
                    (after != tat).then_some(after),
                    self.outcome(now, after.max(now), after.max(now), None, true),
                )
            }
        }
    }

    #[inline(always)]
    fn outcome(
        &self,
        now: u128,
        level: u128,
        mark: u128,
        retry_after: Option<Nanos>,
        admitted: bool,
    ) -> Outcome {
        let room = (now + self.tolerance).saturating_sub(level);
        Outcome {
            admitted,
            room,
            unit: self.interval,
            reset_after: to_nanos(level - now),
            retry_after,
            receipt: Receipt::new(mark),
        }
    }
}

#[inline]
fn to_ticks(time: Nanos) -> u128 {
    u128::from(time.get().min(LAST_NANO)) << TICK_BITS
}

/// Rounded up, so that waiting that long is always enough.
#[inline]
fn to_nanos(ticks: u128) -> Nanos {
    Nanos::new(u64::try_from(ticks.div_ceil(1 << TICK_BITS)).unwrap_or(u64::MAX))
}
