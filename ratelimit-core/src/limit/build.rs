//! From what was asked for to what stores run: the numbers of a [`LimitSpec`] checked and worked out.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::{Algorithm, Inner, Limit, LimitError, LimitId, LimitSpec};
use crate::algorithm::{Concurrency, FixedWindow, Gcra, Program, SlidingWindow};
use crate::rate::{Period, Rate};
use crate::time::Nanos;

impl TryFrom<LimitSpec> for Limit {
    type Error = LimitError;

    fn try_from(spec: LimitSpec) -> Result<Self, LimitError> {
        let proper = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if spec.name.is_empty() || spec.name.len() > 64 || !spec.name.chars().all(proper) {
            return Err(LimitError::Name(spec.name));
        }
        let program = program(&spec)?;
        let window = match &program {
            Program::TokenBucket(bucket) => nominal_refill(bucket.burst(), spec.rate),
            Program::SlidingWindow(window) => window.window().secs_rounded_up(),
            Program::FixedWindow(window) => window.nominal_seconds().into(),
            Program::Concurrency(_) => 0,
        };
        Ok(Self(Arc::new(Inner { id: LimitId::of(&spec.name), program, window, spec })))
    }
}

/// Seconds in which a bucket fills by the rate as it was asked for: 3/s fills in one, though the bucket takes
/// a hair longer, as the time between two units is rounded up.
pub(super) fn nominal_refill(burst: u32, rate: Option<Rate>) -> u64 {
    match rate.map(|rate| (rate.count(), rate.period())) {
        Some((count, Period::Seconds(seconds))) => {
            (u64::from(burst) * u64::from(seconds)).div_ceil(u64::from(count).max(1)).max(1)
        }
        _ => 1,
    }
}

fn program(spec: &LimitSpec) -> Result<Program, LimitError> {
    if spec.algorithm != Algorithm::TokenBucket && spec.burst.is_some() {
        return Err(LimitError::Surplus("burst", spec.algorithm));
    }
    if spec.algorithm != Algorithm::FixedWindow && spec.time_zone.is_some() {
        return Err(LimitError::CalendarNeedsFixedWindow);
    }
    if spec.algorithm == Algorithm::Concurrency {
        if spec.rate.is_some() {
            return Err(LimitError::Surplus("rate", spec.algorithm));
        }
        if spec.debt > 0 {
            return Err(LimitError::Surplus("debt", spec.algorithm));
        }
        let permits = spec.permits.ok_or(LimitError::Missing("permits"))?;
        return Concurrency::new(permits).map(Program::Concurrency).ok_or(LimitError::Zero("permits"));
    }
    if spec.permits.is_some() {
        return Err(LimitError::Surplus("permits", spec.algorithm));
    }
    let rate = spec.rate.ok_or(LimitError::Missing("rate"))?;
    if spec.algorithm == Algorithm::FixedWindow {
        let zone = match &spec.time_zone {
            Some(name) => Some(TimeZone::get(name).map_err(|_| LimitError::TimeZone(name.clone()))?),
            None => None,
        };
        return FixedWindow::new(rate.count(), rate.period(), zone, spec.debt)
            .map(Program::FixedWindow)
            .ok_or(LimitError::Zero("rate"));
    }
    let Period::Seconds(seconds) = rate.period() else {
        return Err(LimitError::CalendarNeedsFixedWindow);
    };
    let period = Nanos::from_secs(seconds.into());
    if spec.algorithm == Algorithm::SlidingWindow {
        return SlidingWindow::new(rate.count(), period, spec.debt)
            .map(Program::SlidingWindow)
            .ok_or(LimitError::Zero("rate"));
    }
    let burst = spec.burst.unwrap_or(rate.count());
    if burst == 0 {
        return Err(LimitError::Zero("burst"));
    }
    Gcra::new(rate.count(), period, burst, spec.debt)
        .map(Program::TokenBucket)
        .ok_or(LimitError::TooSlow { burst: burst.saturating_add(spec.debt), rate })
}
