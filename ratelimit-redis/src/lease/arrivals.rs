//! How often a key is asked for here, the refused included: what decides whether it is worth a lease.

use ratelimit_core::Nanos;

/// log₂ of the parts in a unit for each µs.
const BITS: u32 = 40;

/// Units a µs, in 2⁻⁴⁰: an integer, so that a key's state can be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PerMicro(u64);

impl PerMicro {
    /// That many units in that time.
    #[must_use]
    pub fn of(units: u64, time: Nanos) -> Self {
        let parts = (u128::from(units) * 1000) << BITS;
        Self(u64::try_from(parts / u128::from(time.get().max(1))).unwrap_or(u64::MAX))
    }

    /// How many come in so many µs.
    #[must_use]
    pub fn in_micros(self, micros: u64) -> u64 {
        u64::try_from((u128::from(self.0) * u128::from(micros)) >> BITS).unwrap_or(u64::MAX)
    }

    /// µs in which so many come.
    #[must_use]
    pub fn micros_for(self, units: u64) -> u64 {
        let parts = u128::from(units) << BITS;
        parts.checked_div(self.0.into()).and_then(|micros| u64::try_from(micros).ok()).unwrap_or(u64::MAX)
    }

    /// As the script's number.
    #[must_use]
    pub fn to_script(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "an estimate; 53 bits of it are enough")]
        let parts = self.0 as f64;
        parts / 2.0_f64.powi(40)
    }

    fn half(self) -> Self {
        Self(self.0 / 2)
    }
}

/// Counts what arrives, and from time to time makes a rate of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Arrivals {
    since: Nanos,
    units: u64,
    rate: PerMicro,
}

impl Arrivals {
    /// Begins to count at `now`, with a rate that was seen so far.
    #[must_use]
    pub const fn beginning(now: Nanos, rate: PerMicro) -> Self {
        Self { since: now, units: 0, rate }
    }

    /// So many units were asked for.
    pub const fn count(&mut self, units: u32) {
        self.units = self.units.saturating_add(units as u64);
    }

    /// They were not, after all: the same request is counted elsewhere.
    pub const fn uncount(&mut self, units: u32) {
        self.units = self.units.saturating_sub(units as u64);
    }

    /// The rate at `now`. Falls by at most half from one measurement to the next, unless the last was longer ago
    /// than `quiet`: a lull within traffic is no end of it. What lasted less than `shortest` is taken to have
    /// lasted that long, and its first unit for chance: two requests that come together are no rate.
    pub fn measure(&mut self, now: Nanos, shortest: Nanos, quiet: Nanos) -> PerMicro {
        let passed = now.saturating_sub(self.since);
        if passed < shortest {
            return PerMicro::of(self.units.saturating_sub(1), shortest).max(self.rate);
        }
        let seen = PerMicro::of(self.units, passed);
        self.rate = if passed > quiet { seen } else { seen.max(self.rate.half()) };
        self.since = now;
        self.units = 0;
        self.rate
    }

    /// The rate as it was measured last.
    #[must_use]
    pub const fn rate(&self) -> PerMicro {
        self.rate
    }

    /// When it was measured last.
    #[must_use]
    pub const fn since(&self) -> Nanos {
        self.since
    }
}
