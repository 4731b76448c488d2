//! [`Need`]: the smallest quota that would have admitted everything that one key asked for.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratelimit_core::{Algorithm, Limit, Nanos, Period, Rate};

/// Parts that a sliding window is looked at in; the need is rounded up by one part at most.
const PARTS: usize = 16;

/// What a key has asked of one limit, as if nothing had been denied.
#[derive(Debug)]
pub(super) enum Need {
    /// The fill of a bucket without a brim.
    Bucket {
        per_nano: f64,
        fill: f64,
        at: Nanos,
        peak: f64,
    },
    Fixed {
        window: i64,
        count: u64,
        peak: u64,
    },
    Sliding {
        part: u64,
        newest: u64,
        counts: [u32; PARTS + 1],
        peak: u64,
    },
    Flight {
        now: u64,
        peak: u64,
    },
}

impl Need {
    /// Of a key that has asked for nothing yet.
    pub(super) fn new(limit: &Limit) -> Self {
        let spec = limit.spec();
        let seconds = match spec.rate.map(|rate| rate.period()) {
            Some(Period::Seconds(seconds)) => u64::from(seconds),
            _ => 1,
        };
        let count = spec.rate.map_or(1, |rate| rate.count());
        match spec.algorithm {
            Algorithm::Concurrency => Self::Flight { now: 0, peak: 0 },
            Algorithm::FixedWindow => Self::Fixed { window: i64::MIN, count: 0, peak: 0 },
            Algorithm::SlidingWindow => {
                let part = Nanos::from_secs(seconds).get().div_ceil(PARTS as u64);
                Self::Sliding { part, newest: 0, counts: [0; PARTS + 1], peak: 0 }
            }
            _ => {
                let per_nano = f64::from(count) / Nanos::from_secs(seconds).get().max(1) as f64;
                Self::Bucket { per_nano, fill: 0.0, at: Nanos::ZERO, peak: 0.0 }
            }
        }
    }

    /// It asks for so many units.
    pub(super) fn ask(&mut self, limit: &Limit, now: Nanos, units: u32) {
        match self {
            Self::Bucket { per_nano, fill, at, peak } => {
                let left = *fill - now.saturating_sub(*at).get() as f64 * *per_nano;
                *fill = left.max(0.0) + f64::from(units);
                *at = now;
                *peak = peak.max(*fill);
            }
            Self::Fixed { window, count, peak } => {
                let current = window_of(limit, now);
                if current != *window {
                    (*window, *count) = (current, 0);
                }
                *count += u64::from(units);
                *peak = (*peak).max(*count);
            }
            Self::Sliding { part, newest, counts, peak } => {
                let current = now.get() / (*part).max(1);
                let passed = usize::try_from(current.saturating_sub(*newest)).unwrap_or(usize::MAX);
                let passed = passed.min(counts.len());
                counts.rotate_right(passed % (PARTS + 1));
                counts.iter_mut().take(passed).for_each(|count| *count = 0);
                *newest = current;
                if let Some(first) = counts.first_mut() {
                    *first = first.saturating_add(units);
                }
                *peak = (*peak).max(counts.iter().map(|count| u64::from(*count)).sum());
            }
            Self::Flight { now, peak } => {
                *now += u64::from(units);
                *peak = (*peak).max(*now);
            }
        }
    }

    /// A request that held so many permits is over.
    pub(super) fn give_back(&mut self, units: u32) {
        if let Self::Flight { now, .. } = self {
            *now = now.saturating_sub(u64::from(units));
        }
    }

    /// How much it would have needed.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a fill is no negative number"
    )]
    pub(super) fn units(&self) -> u64 {
        match self {
            // What thousands of additions have lost is less than that.
            Self::Bucket { peak, .. } => (peak - 1e-6).ceil() as u64,
            Self::Fixed { peak, .. } | Self::Sliding { peak, .. } | Self::Flight { peak, .. } => *peak,
        }
    }

    /// The same in the words of a configuration.
    pub(super) fn words(&self, limit: &Limit) -> String {
        let units = self.units();
        let rate = limit.spec().rate;
        match (self, rate) {
            (Self::Bucket { .. }, Some(rate)) => format!("{rate}, burst {units}"),
            (Self::Flight { .. }, _) | (_, None) => format!("{units} at once"),
            (_, Some(rate)) => {
                let count = u32::try_from(units.max(1)).unwrap_or(u32::MAX);
                let wider = match rate.period() {
                    Period::Seconds(seconds) => {
                        Rate::new(count, std::time::Duration::from_secs(seconds.into()))
                    }
                    _ => Rate::per_month(count),
                };
                wider.map_or_else(|_| format!("{units} for each window"), |rate| rate.to_string())
            }
        }
    }
}

/// The number of the window of a limit's calendar that a time lies in.
fn window_of(limit: &Limit, now: Nanos) -> i64 {
    let spec = limit.spec();
    let seconds = i64::try_from(now.whole_secs()).unwrap_or(i64::MAX);
    let month = matches!(spec.rate.map(|rate| rate.period()), Some(Period::Month));
    if !month && spec.time_zone.is_none() {
        return seconds / window_seconds(limit);
    }
    let Ok(time) = Timestamp::from_second(seconds) else { return 0 };
    let zone = spec.time_zone.as_deref().and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC);
    if month {
        let local = zone.to_datetime(time);
        return i64::from(local.year()) * 12 + i64::from(local.month());
    }
    (seconds + i64::from(zone.to_offset(time).seconds())) / window_seconds(limit)
}

fn window_seconds(limit: &Limit) -> i64 {
    i64::try_from(limit.window_seconds().unwrap_or(1)).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(limit: &Limit, at: &[(u64, u32)]) -> Need {
        let mut need = Need::new(limit);
        for (milliseconds, units) in at {
            need.ask(limit, Nanos::new(1_767_225_600_000_000_000 + milliseconds * 1_000_000), *units);
        }
        need
    }

    #[test]
    fn a_bucket_needs_its_highest_fill() {
        let limit = Limit::new("b", "10/s".parse().unwrap());
        let need = asked(&limit, &[(0, 1), (0, 1), (100, 1), (1000, 5), (1050, 1)]);
        assert_eq!((need.units(), need.words(&limit)), (6, "10/s, burst 6".to_owned()));
    }

    #[test]
    fn a_window_needs_its_fullest() {
        let limit = Limit::new("f", "10/min".parse().unwrap()).algorithm(Algorithm::FixedWindow);
        let need = asked(&limit, &[(0, 4), (59_999, 4), (60_000, 7)]);
        assert_eq!((need.units(), need.words(&limit)), (8, "8/min".to_owned()));
        let limit = Limit::new("s", "10/min".parse().unwrap()).algorithm(Algorithm::SlidingWindow);
        let need = asked(&limit, &[(0, 4), (59_999, 4), (60_000, 7), (600_000, 12)]);
        assert_eq!(need.units(), 15);
    }

    #[test]
    fn permits_need_their_most_at_once() {
        let limit = Limit::concurrency("c", 1);
        let mut need = Need::new(&limit);
        need.ask(&limit, Nanos::ZERO, 1);
        need.ask(&limit, Nanos::ZERO, 1);
        need.give_back(1);
        need.ask(&limit, Nanos::ZERO, 1);
        assert_eq!((need.units(), need.words(&limit)), (2, "2 at once".to_owned()));
    }
}
