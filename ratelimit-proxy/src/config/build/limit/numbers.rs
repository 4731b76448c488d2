//! How a limit counts, and how much: the numbers that the library makes a limit of.

use ratelimit_core::{Algorithm, LimitError, LimitSpec, Mode, Period};

use super::cost::debt;
use super::generated;
use super::quota::first_tier;
use crate::config::fault::{Faults, Place};
use crate::config::raw::{self, AlgorithmWord, ModeWord};

/// The numbers of a limit, once they go together; `None` if they do not, or some were refused.
pub(super) fn spec(raw: &raw::Limit, number: usize, place: &Place, faults: &mut Faults) -> Option<LimitSpec> {
    let algorithm = algorithm(raw, place, faults)?;
    let mut sound = true;
    let mut surplus = |given: Option<&Place>, what: &str, hint: &str, faults: &mut Faults| {
        if let Some(place) = given {
            faults.refuse_with(place, format!("{algorithm} has no {what}"), hint);
            sound = false;
        }
    };
    if algorithm == Algorithm::Concurrency {
        surplus(raw.rate.get().map(|given| &given.place), "rate", "make it a limit of its own", faults);
    }
    if algorithm != Algorithm::TokenBucket {
        surplus(raw.burst.get().map(|given| &given.place), "burst", "only token_bucket has one", faults);
    }
    if algorithm != Algorithm::FixedWindow {
        let zone = raw.timezone.get().map(|given| &given.place);
        surplus(zone, "time zone", "only fixed_window follows a calendar", faults);
        if let Some(rate) = raw.rate.get().filter(|rate| rate.period() == Period::Month) {
            surplus(Some(&rate.place), "month", "only fixed_window counts by the month", faults);
        }
    }
    let broken = raw.name.is_broken()
        || raw.rate.is_broken()
        || raw.burst.is_broken()
        || raw.concurrency.is_broken()
        || raw.timezone.is_broken();
    if !sound || broken {
        return None;
    }
    let first = first_tier(raw);
    let rate = raw.rate.get().or_else(|| first?.rate.get()).map(|rate| rate.value);
    Some(LimitSpec {
        name: raw.name.get().map_or_else(|| generated(number), |name| name.value.0.clone()),
        algorithm,
        rate,
        burst: raw.burst.get().map(|burst| burst.0),
        permits: raw.concurrency.get().map(|permits| permits.0),
        debt: debt(raw, rate, raw.burst.get().map(|burst| burst.0)),
        time_zone: raw.timezone.get().map(|zone| zone.value.0.clone()),
        mode: match raw.mode.get().map(|mode| mode.value) {
            Some(ModeWord::Shadow) => Mode::Shadow,
            _ => Mode::Enforce,
        },
    })
}

fn algorithm(raw: &raw::Limit, place: &Place, faults: &mut Faults) -> Option<Algorithm> {
    if raw.algorithm.is_broken() {
        return None;
    }
    let named = raw.algorithm.get().map(|word| match word.value {
        AlgorithmWord::TokenBucket => Algorithm::TokenBucket,
        AlgorithmWord::SlidingWindow => Algorithm::SlidingWindow,
        AlgorithmWord::FixedWindow => Algorithm::FixedWindow,
        AlgorithmWord::Concurrency => Algorithm::Concurrency,
    });
    let word = raw.algorithm.get().map_or(place, |word| &word.place);
    if !raw.concurrency.is_absent() {
        if let Some(other) = named.filter(|named| *named != Algorithm::Concurrency) {
            let hint = "concurrency is an algorithm of its own: write one of them";
            faults.refuse_with(word, format!("{other} stands beside concurrency"), hint);
            return None;
        }
        return Some(Algorithm::Concurrency);
    }
    if named == Some(Algorithm::Concurrency) {
        faults.refuse_with(word, "how many at once is missing", "write concurrency: 4, say");
        return None;
    }
    // The rates of tiers stand within them.
    if raw.rate.is_absent() && raw.tiers.is_absent() {
        faults.refuse_with(place, "rate is missing", "write rate: 100/s, say, or concurrency: 4");
    }
    (!raw.rate.is_absent() || !raw.tiers.is_absent()).then_some(named.unwrap_or_default())
}

/// Tells what the library refuses, where it was written.
pub(super) fn refuse(
    error: &LimitError,
    algorithm: Algorithm,
    raw: &raw::Limit,
    place: &Place,
    faults: &mut Faults,
) {
    let rate = raw.rate.get().map(|given| &given.place);
    let at = match error {
        LimitError::Name(_) => raw.name.get().map(|given| &given.place),
        LimitError::TimeZone(_) => raw.timezone.get().map(|given| &given.place),
        LimitError::TooSlow { .. } => raw.burst.get().map(|given| &given.place).or(rate),
        LimitError::CalendarNeedsFixedWindow if algorithm == Algorithm::FixedWindow => rate,
        _ => rate.or(raw.concurrency.get().map(|given| &given.place)),
    };
    faults.refuse(at.unwrap_or(place), error.to_string());
}
