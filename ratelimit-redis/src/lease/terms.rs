//! What a limit's quota means on the store's clock.

use ratelimit_core::algorithm::Program;
use ratelimit_core::{Limit, Period, Rate};

use super::Ticks;

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
                Self { kind: Kind::Bucket, unit, capacity, span, lapses: span }
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
        Some(terms)
    }

    fn window(capacity: u32, span: u64, lapses: u64) -> Self {
        Self { kind: Kind::Window, unit: Ticks::from_micros(1), capacity, span, lapses }
    }

    /// What a recovered key has.
    #[must_use]
    pub fn cap(&self) -> Ticks {
        self.unit.times(self.capacity)
    }
}

fn interval(period: u64, count: u64) -> Ticks {
    let (mut scaled, mut shift) = (period, 0_u32);
    while shift < 20 && !scaled.is_multiple_of(count) && scaled.div_ceil(count) < 100_000 {
        scaled *= 2;
        shift += 1;
    }
    Ticks::new(u128::from(scaled.div_ceil(count)) << (20 - shift))
}
