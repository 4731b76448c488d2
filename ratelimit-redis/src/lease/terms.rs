//! What a limit's quota means on the store's clock.

use ratelimit_core::algorithm::Program;
use ratelimit_core::{Limit, Period, Rate};

use super::Ticks;
use crate::shape::refill;

const MICROS: u64 = 1_000_000;

/// How what is granted may be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Token bucket: each unit until its own time.
    Bucket,
    /// A window, or a cell of one: everything until its end.
    Window,
}

/// A limit's numbers, as the shared store counts. A lease holds under the terms it was given under, and is
/// dropped when they change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    /// How what is granted may be spent.
    pub kind: Kind,
    /// What one unit takes: the store's T of a token bucket, exactly; 1 µs stands for a unit of a window.
    pub unit: Ticks,
    /// Units a recovered key has.
    pub capacity: u32,
    /// µs in which an empty bucket fills; µs of a window.
    pub span: u64,
    /// µs within which what is granted lapses at the latest.
    pub lapses: u64,
    /// The rate that these were worked out from.
    pub rate: Option<Rate>,
}

impl Terms {
    /// What the store counts by for that limit; `None` for concurrency, whose permits are held, not spent.
    ///
    /// T is `⌈period · 2ˢ / count⌉ / 2ˢ` microseconds, with the smallest s of 0 to 20 for which it is exact or
    /// has five digits.
    #[must_use]
    pub fn of(limit: &Limit) -> Option<Self> {
        let rate = limit.spec().rate;
        let capacity = limit.capacity();
        let terms = match limit.program() {
            Program::TokenBucket(_) => {
                let Period::Seconds(seconds) = rate.map(Rate::period)? else { return None };
                let unit = interval(u64::from(seconds) * MICROS, rate.map_or(1, Rate::count).into());
                let span = unit.times(capacity).micros_rounded_up();
                Self { kind: Kind::Bucket, unit, capacity, span, lapses: span, rate: None }
            }
            Program::SlidingWindow(window) => {
                let span = window.window().get() / 1000;
                Self::window(capacity, span, span.div_ceil(10))
            }
            Program::FixedWindow(window) => {
                let span = u64::from(window.nominal_seconds()) * MICROS;
                Self::window(capacity, span, span)
            }
            _ => return None,
        };
        Some(Self { rate, ..terms })
    }

    fn window(capacity: u32, span: u64, lapses: u64) -> Self {
        Self { kind: Kind::Window, unit: Ticks::from_micros(1), capacity, span, lapses, rate: None }
    }

    /// Whether a window slides: what is charged to a cell of it is counted for a window's length after its end.
    #[must_use]
    pub fn slides(&self) -> bool {
        self.kind == Kind::Window && self.lapses < self.span
    }

    /// Whether they are what that limit's numbers come to, without working them out again. The limit is of the
    /// same algorithm.
    #[must_use]
    pub fn are_of(&self, limit: &Limit) -> bool {
        self.capacity == limit.capacity() && self.rate == limit.spec().rate
    }

    /// What a recovered key has.
    #[must_use]
    pub fn cap(&self) -> Ticks {
        self.unit.times(self.capacity)
    }
}

fn interval(period: u64, count: u64) -> Ticks {
    let (numerator, shift) = refill(period, count);
    Ticks::new(u128::from(numerator) << 20_u32.saturating_sub(shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;
    use proptest::prelude::*;
    use ratelimit_core::{Algorithm, LimitSpec};
    use std::time::Duration;

    proptest! {
        /// What a lease counts by is what the script counts by.
        #[test]
        fn terms_are_the_shape(count in 1u32.., seconds in 1..=ratelimit_core::MAX_PERIOD_SECONDS, burst in 1u32.., kind in 0..3_u8) {
            let Ok(rate) = Rate::new(count, Duration::from_secs(seconds.into())) else { return Ok(()) };
            let spec = match kind {
                0 => LimitSpec { burst: Some(burst), ..LimitSpec::new("l", rate) },
                1 => LimitSpec { algorithm: Algorithm::SlidingWindow, ..LimitSpec::new("l", rate) },
                _ => LimitSpec { algorithm: Algorithm::FixedWindow, ..LimitSpec::new("l", rate) },
            };
            let Ok(limit) = Limit::try_from(spec) else { return Ok(()) };
            let (terms, shape) = (Terms::of(&limit).unwrap(), Shape::of(&limit));
            prop_assert_eq!(terms.unit.to_script(), shape.unit());
            prop_assert_eq!(terms.cap().to_script(), shape.capacity);
            prop_assert_eq!(Ticks::from_script(shape.capacity), terms.cap());
            if let crate::shape::Kind::Sliding { cell } = shape.kind {
                prop_assert_eq!(Ticks::from_micros(terms.lapses).to_script(), cell);
            }
        }
    }
}
