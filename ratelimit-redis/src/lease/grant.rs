//! The store's side of a lease: how much of a key's quota goes to a replica that asks for some.
//!
//! This is the reference for the lease operation of `scripts/decide.lua`; [`grant`] is written in the script's
//! numbers (doubles, times in microseconds) and line by line in its order, so that both give the same answer to
//! the bit.
//!
//! # What is exact and what is taste
//! A grant of g units is one ordinary charge: it is given only if `used + g · unit ≤ cap`. Used, cap and unit are
//! whole multiples of 2⁻²⁰ µs below 2⁵³ of them, where doubles add, subtract and multiply without rounding, so
//! this comparison is exact. Everything else decides only *how large* g is; a wrong number there costs calls or
//! delays somebody, and never admits too much.
//!
//! # How large
//! * A lease should last as long as the horizon h of the asker, or half of what it takes to refill what is used:
//!   the slots of an emptier bucket lie further ahead, so a longer lease strands nothing.
//! * `rate` · that is what the replica will want. On a nearly full bucket slots lapse at the bucket's own rate,
//!   whatever the demand; there the lease must cover *time* h, which takes the bucket never below 1 − h/τ.
//! * `share`: never more than that part of what is there, so that R replicas leave (1 − share)ᴿ.
//! * `patience`: once a key is exhausted, a replica is better told to wait until a batch is there than fed units
//!   one at a time. 0: whatever is there is given. The batch is what comes back in four seconds at most, so
//!   that at a slow rate nobody waits for long where something is left.

/// A key's level, in the script's numbers: microseconds on a token bucket, units in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// What is used: time to full recovery, or units counted.
    pub used: f64,
    /// The most that can be: burst · T, or the window's limit.
    pub cap: f64,
    /// What one unit takes of it: T, or 1.
    pub unit: f64,
    /// Of a window: µs until what is granted now lapses, at the end of a fixed window or of a sliding window's
    /// cell. `None` for a token bucket.
    pub lapses: Option<f64>,
}

/// What a replica asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wish {
    /// Units for the request that waits; 1 when none does.
    pub least: f64,
    /// Units a µs that the replica is asked for.
    pub rate: f64,
    /// µs a lease should last.
    pub horizon: f64,
    /// Most of what is there that it may take.
    pub share: f64,
    /// The part of its wish below which it would rather wait.
    pub patience: f64,
}

/// The longest time, in µs, of which a patient asker wants its part.
const PATIENT: f64 = 4_000_000.0;

/// The answer to a [`Wish`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Grant {
    /// That many units, at least the `least` of the wish; charge them.
    Units(u32),
    /// None. So much is missing: on a token bucket the time until there is enough.
    Missing(f64),
}

/// How much to grant.
#[must_use]
pub fn grant(level: Level, wish: Wish) -> Grant {
    let Level { used, cap, unit, lapses } = level;
    let bucket = lapses.is_none();
    let lasts = match lapses {
        None => f64::max(wish.horizon, used / 2.0),
        Some(left) => f64::min(wish.horizon, left),
    };
    let want = f64::max(wish.rate * lasts, wish.least);
    let mut least = wish.least;
    if bucket {
        let batch = f64::min(want, f64::min(lasts, PATIENT) / unit);
        least = f64::max(least, (wish.patience * batch).ceil());
    }
    let there = cap - used;
    if there < least * unit {
        return Grant::Missing(least * unit - there);
    }
    let mut most = want * unit;
    if bucket && wish.horizon - used > most {
        most = wish.horizon - used;
    }
    let mut granted = (f64::min(most, f64::max(least * unit, there * wish.share)) / unit).floor();
    // The division above rounds, the multiplication does not.
    if granted * unit > there {
        granted -= 1.0;
    }
    Grant::Units(to_units(f64::max(granted, least)))
}

fn to_units(units: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float becomes an integer by saturating, and NaN 0; limits are counts below 2³²"
    )]
    let units = units as u32;
    units
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers as limits have them: multiples of 2⁻²⁰ that doubles hold.
    fn level() -> impl Strategy<Value = (u64, u32, u64, Option<u64>)> {
        (1..200_000_u64, 1..1_000_000_u32, any::<u64>(), proptest::option::of(1..100_000_000_u64))
    }

    fn of((unit, burst, used, lapses): (u64, u32, u64, Option<u64>)) -> (Level, u64, u64, u64) {
        let unit = if lapses.is_some() { 1 << 20 } else { unit };
        let cap = unit * u64::from(burst);
        let used = used % (cap + 1);
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let script = |ticks: u64| ticks as f64 / 1_048_576.0;
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let lapses = lapses.map(|micros| micros as f64);
        (Level { used: script(used), cap: script(cap), unit: script(unit), lapses }, unit, cap, used)
    }

    proptest! {
        /// A grant is a charge that fits, in exact integers; at least what was asked for, and beyond that never
        /// more than its share.
        #[test]
        fn a_grant_fits(
            key in level(), least in 1..5_u32, rate in 0.0..20.0_f64, horizon in 1..60_000_000_u32,
            share in 0.0..=1.0_f64, patience in prop_oneof![Just(0.0), Just(0.25), 0.0..=1.0_f64],
        ) {
            let (level, unit, cap, used) = of(key);
            let wish = Wish { least: least.into(), rate, horizon: horizon.into(), share, patience };
            match grant(level, wish) {
                Grant::Units(units) => {
                    prop_assert!(units >= least);
                    prop_assert!(used + unit * u64::from(units) <= cap);
                }
                Grant::Missing(missing) => {
                    prop_assert!(missing > 0.0);
                    if patience == 0.0 {
                        prop_assert!(used + unit * u64::from(least) > cap, "refused what was there");
                    }
                }
            }
        }

        /// More room gives no less.
        #[test]
        fn more_room_gives_no_less(key in level(), more in 1..1000_u32, rate in 0.0..20.0_f64, patient: bool) {
            let (level, unit, cap, used) = of(key);
            let (unit_of, burst) = (unit, cap / unit + u64::from(more));
            let (larger, ..) = of((unit_of, u32::try_from(burst).unwrap(), used, key.3));
            let patience = if patient { 0.25 } else { 0.0 };
            let wish = Wish { least: 1.0, rate, horizon: 100_000.0, share: 0.25, patience };
            if let Grant::Units(units) = grant(level, wish) {
                let Grant::Units(more) = grant(larger, wish) else { panic!("refused with more room") };
                prop_assert!(more >= units, "{units} units, and with more room {more}");
            }
        }
    }

    #[test]
    fn a_full_bucket_gives_time_and_a_nearly_empty_one_a_share() {
        let full = Level { used: 0.0, cap: 1_000_000.0, unit: 1000.0, lapses: None };
        let wish = Wish { least: 1.0, rate: 0.000_1, horizon: 125_000.0, share: 0.25, patience: 0.0 };
        assert_eq!(
            grant(full, wish),
            Grant::Units(125),
            "an eighth of a second at 1000/s, whatever the demand"
        );
        let low = Level { used: 900_000.0, ..full };
        assert_eq!(grant(low, Wish { rate: 0.01, ..wish }), Grant::Units(25), "a quarter of 100");
        let empty = Level { used: 995_000.0, ..full };
        assert_eq!(grant(empty, Wish { rate: 0.01, ..wish }), Grant::Units(1), "the tail, unit by unit");
        let patient = Wish { rate: 0.01, patience: 0.25, ..wish };
        assert_eq!(grant(empty, patient), Grant::Missing(120_000.0), "a batch of 125, of which 5 are there");
        let window = Level { used: 90.0, cap: 100.0, unit: 1.0, lapses: Some(50_000.0) };
        assert_eq!(grant(window, Wish { rate: 0.000_04, ..wish }), Grant::Units(2));
        assert_eq!(grant(Level { used: 100.0, ..window }, wish), Grant::Missing(1.0));
    }
}
