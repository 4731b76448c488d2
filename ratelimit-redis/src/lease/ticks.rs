//! [`Ticks`]: the shared store's time, in the unit in which it counts exactly.

use ratelimit_core::Nanos;

/// log₂ of the ticks in a microsecond.
const BITS: u32 = 20;
/// Nanoseconds in a microsecond.
const MICRO: u64 = 1000;
/// How much faster than the store's a replica's clock is taken to run, in thousandths: clocks of machines are
/// told apart by 0.2 ‰ at worst, this is five times that.
const DRIFT: u128 = 1;

/// A time on the store's clock since the Unix epoch, or a length of it, in 2⁻²⁰ µs.
///
/// The store's scripts compute in doubles, where a time is a whole number of microseconds and a fraction of at
/// most twenty binary places. All of those are whole ticks, so what a lease does in integers here is what the
/// store did in doubles there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticks(u128);

impl Ticks {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// That many ticks.
    #[must_use]
    pub const fn new(ticks: u128) -> Self {
        Self(ticks)
    }

    /// As a number of ticks.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0
    }

    /// That many microseconds. Counts of windows are kept as if a unit were one.
    #[must_use]
    pub fn from_micros(micros: u64) -> Self {
        Self(u128::from(micros) << BITS)
    }

    /// Whole microseconds, rounded up, so that waiting that long is always enough.
    #[must_use]
    pub fn micros_rounded_up(self) -> u64 {
        u64::try_from(self.0.div_ceil(1 << BITS)).unwrap_or(u64::MAX)
    }

    /// A length of local time, rounded up, as the store's clock could have passed at most meanwhile.
    #[must_use]
    pub fn at_most(local: Nanos) -> Self {
        // Multiplied by a fraction that is rounded up, as a division takes ten times as long.
        const FRACTION: u32 = 32;
        const PER_NANO: u128 = (((1000 + DRIFT) << BITS) << FRACTION).div_ceil(1000 * MICRO as u128);
        Self((u128::from(local.get()) * PER_NANO + ((1 << FRACTION) - 1)) >> FRACTION)
    }

    /// A length of time in nanoseconds, rounded up.
    #[must_use]
    pub fn to_nanos(self) -> Nanos {
        let nanos = self.0.saturating_mul(MICRO.into()).div_ceil(1 << BITS);
        Nanos::new(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// That many times as long.
    #[must_use]
    pub fn times(self, count: u32) -> Self {
        Self(self.0.saturating_mul(count.into()))
    }

    /// How often `unit` fits.
    #[must_use]
    pub fn units(self, unit: Self) -> u32 {
        if let (Ok(whole), Ok(unit)) = (u64::try_from(self.0), u64::try_from(unit.0)) {
            return u32::try_from(whole.checked_div(unit).unwrap_or(0)).unwrap_or(u32::MAX);
        }
        u32::try_from(self.0.checked_div(unit.0).unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// Time until the next whole multiple of `length`.
    #[must_use]
    pub fn until_next(self, length: Self) -> Self {
        length.minus(Self(self.0.checked_rem(length.0).unwrap_or(0)))
    }

    /// The sum.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, at least zero.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// A number of the script's, microseconds; rounded down to a whole tick. 0 for what is negative or no number.
    #[must_use]
    pub fn from_script(micros: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float becomes an integer by saturating, and NaN 0"
        )]
        let ticks = (micros * f64::from(1_u32 << BITS)) as u128;
        Self(ticks)
    }

    /// As the script's number: microseconds, exact below 2⁵³ ticks and rounded to nearest above.
    #[must_use]
    pub fn to_script(self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "documented: exact in the range that limits are held to"
        )]
        let ticks = self.0 as f64;
        ticks / f64::from(1_u32 << BITS)
    }
}
