//! A limit as the numbers that the script counts with: microseconds as doubles that are exact.
//!
//! # Token buckets
//! T, the time in which one unit comes back, is a dyadic rational: `⌈period · 2ˢ / count⌉ / 2ˢ` microseconds,
//! with the smallest s of 0 to 20 for which it is exact or has five digits. So the rate is never above the one
//! asked for, and within 10 ppm of it. All levels are multiples of 2⁻ˢ; as T · 2ˢ < 2 · 10⁵ for s > 0 and no
//! limit has more than 2³² units twice over, they stay below 2⁵³ · 2⁻ˢ and doubles add them exactly. For s = 0
//! the same follows from what limits allow: 36 years of refill.

use ratelimit_core::algorithm::Program;
use ratelimit_core::{Limit, Period};

/// Eleven cells: ten make a window.
const CELLS_PER_WINDOW: u64 = 10;
const MICROS: u64 = 1_000_000;
/// A clock that steps back by so many microseconds at most adds to a bucket's level, and is waited for.
const HELD_UP: f64 = 1_000_000.0;
/// Most that a count in the store can say.
const MOST: u64 = u32::MAX as u64;

/// How the script is told to count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Token bucket; microseconds in which one unit comes back.
    Bucket { unit: f64 },
    /// Fixed window of so many microseconds, aligned to the epoch or to Monday.
    Fixed { period: f64 },
    /// Fixed window whose boundaries only a calendar knows.
    Calendar,
    /// Sliding window; microseconds in a cell.
    Sliding { cell: f64 },
    /// Concurrency.
    Permits,
}

/// A limit's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    /// What is full: microseconds for a bucket, else units.
    pub(crate) capacity: f64,
    /// The most that debits may bring it to.
    pub(crate) ceiling: f64,
    pub(crate) kind: Kind,
}

impl Shape {
    pub(crate) fn of(limit: &Limit) -> Self {
        let spec = limit.spec();
        let units = u64::from(limit.capacity());
        let ceiling = (units + u64::from(spec.debt)).min(MOST);
        let period = match spec.rate.map(ratelimit_core::Rate::period) {
            Some(Period::Seconds(seconds)) => u64::from(seconds) * MICROS,
            _ => 0,
        };
        let kind = match limit.program() {
            Program::TokenBucket(_) => {
                let count = spec.rate.map_or(1, ratelimit_core::Rate::count);
                let unit = interval(period, u64::from(count));
                return Self {
                    capacity: float(units) * unit,
                    ceiling: float(units + u64::from(spec.debt)) * unit,
                    kind: Kind::Bucket { unit },
                };
            }
            Program::SlidingWindow(_) => Kind::Sliding { cell: float(period.div_ceil(CELLS_PER_WINDOW)) },
            Program::FixedWindow(_) if period == 0 || spec.time_zone.is_some() => Kind::Calendar,
            Program::FixedWindow(_) => Kind::Fixed { period: float(period) },
            _ => Kind::Permits,
        };
        Self { capacity: float(units), ceiling: float(ceiling), kind }
    }

    /// `units` as the script counts them; never so much that doubles would not add it exactly.
    pub(crate) fn amount(&self, units: u32) -> f64 {
        let amount = self.unit() * f64::from(units);
        // Beyond the ceiling more makes no difference, nor beyond what a step of the clock may add to it.
        amount.min(self.ceiling + self.unit().max(HELD_UP))
    }

    pub(crate) fn unit(&self) -> f64 {
        match self.kind {
            Kind::Bucket { unit } => unit,
            _ => 1.0,
        }
    }

    /// Whole units that fit between `used` and the capacity.
    pub(crate) fn left(&self, used: f64) -> u32 {
        let (room, unit) = (self.capacity - used, self.unit());
        if room < unit {
            return 0;
        }
        // The quotient may be rounded to the next whole number; the products are exact.
        let mut units = (room / unit).floor();
        if units * unit > room {
            units -= 1.0;
        }
        whole(units).try_into().unwrap_or(u32::MAX)
    }

    /// What the script is told besides capacity and ceiling.
    pub(crate) fn code(&self) -> f64 {
        match self.kind {
            Kind::Bucket { .. } => 0.0,
            Kind::Calendar => 1.0,
            Kind::Permits => 2.0,
            Kind::Fixed { period } => period,
            Kind::Sliding { cell } => -cell,
        }
    }
}

/// T in microseconds, exact as a double.
fn interval(period: u64, count: u64) -> f64 {
    let (numerator, shift) = refill(period, count);
    float(numerator) / float(1 << shift)
}

/// T as microseconds in 2⁻ˢ, and s.
pub(crate) fn refill(period: u64, count: u64) -> (u64, u32) {
    // Two divisions instead of a search: this is done for every decision.
    let (odd, twos) = (count >> count.trailing_zeros(), count.trailing_zeros());
    let exact = if period.is_multiple_of(odd) { twos.saturating_sub(period.trailing_zeros()) } else { 20 };
    // The first shift with period · 2ˢ > 99 999 · count.
    let digits = (99_999 * count / period.max(1)).checked_ilog2().map_or(0, |log| log + 1);
    let shift = exact.min(digits).min(20);
    ((period << shift).div_ceil(count), shift)
}

/// Exact below 2⁵³, and nothing here is larger.
#[expect(clippy::cast_precision_loss, reason = "callers stay below 2^53")]
pub(crate) const fn float(number: u64) -> f64 {
    number as f64
}

/// The whole part of a number; 0 for what is negative or not a number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, which is meant")]
pub(crate) const fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ratelimit_core::{LimitSpec, Rate};
    use std::time::Duration;

    fn unit_of(limit: &Limit) -> f64 {
        let Kind::Bucket { unit } = Shape::of(limit).kind else { panic!("no bucket") };
        unit
    }

    #[test]
    fn whole_microseconds_are_exact() {
        for (rate, unit) in [("100/s", 10_000.0), ("1/day", 86_400e6), ("3/min", 20e6), ("30/s", 33_333.5)] {
            assert_eq!(unit_of(&Limit::new("l", rate.parse().unwrap())), unit, "{rate}");
        }
        assert_eq!(unit_of(&Limit::new("l", "10000000/s".parse().unwrap())), 104_858.0 / 1_048_576.0);
    }

    /// As it is written on top.
    fn sought(period: u64, count: u64) -> (u64, u32) {
        let (mut scaled, mut shift) = (period, 0_u32);
        while shift < 20 && !scaled.is_multiple_of(count) && scaled.div_ceil(count) < 100_000 {
            scaled *= 2;
            shift += 1;
        }
        (scaled.div_ceil(count), shift)
    }

    proptest! {
        #[test]
        fn the_shift_is_the_smallest(count in prop_oneof![1u64..=u64::from(u32::MAX), 1u64..20_000, (0u32..32).prop_map(|twos| 1 << twos)], seconds in prop_oneof![1u64..=u64::from(ratelimit_core::MAX_PERIOD_SECONDS), 1u64..4000]) {
            prop_assert_eq!(refill(seconds * MICROS, count), sought(seconds * MICROS, count));
        }

        /// Never faster than asked for, within 10 ppm, and exact in doubles up to what a limit can reach.
        #[test]
        fn intervals_are_late_by_ten_ppm_at_most(count in 1u32.., seconds in 1u32..=ratelimit_core::MAX_PERIOD_SECONDS, burst in 1u32..) {
            let Ok(rate) = Rate::new(count, Duration::from_secs(seconds.into())) else { return Ok(()) };
            let spec = LimitSpec { burst: Some(burst), ..LimitSpec::new("l", rate) };
            let Ok(limit) = Limit::try_from(spec) else { return Ok(()) };
            let shape = Shape::of(&limit);
            let unit = unit_of(&limit);
            // In units of 2⁻²⁰ µs, in integers.
            let scaled = (unit * 1_048_576.0) as u128;
            prop_assert_eq!(scaled as f64 / 1_048_576.0, unit);
            let asked = (u128::from(seconds) * 1_000_000) << 20;
            prop_assert!(scaled * u128::from(count) >= asked);
            prop_assert!((scaled * u128::from(count) - asked) * 100_000 <= asked);
            // Every level, doubled, is a multiple of its grain that a double holds.
            let grain = 1_u128 << (scaled.trailing_zeros().min(20));
            let most = (scaled * u128::from(burst) * 2 + scaled) / grain;
            prop_assert!(most < 1 << 53);
            prop_assert_eq!(shape.left(0.0), burst);
            prop_assert_eq!(shape.left(shape.amount(1)), burst - 1);
            prop_assert_eq!(shape.left(shape.capacity), 0);
        }
    }
}
