//! [`Rate`]: how people say "how much in how long".

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The longest period a rate may have: ten years.
pub const MAX_PERIOD_SECONDS: u32 = 10 * 366 * 86_400;
/// The highest rate, in units per second.
pub const MAX_PER_SECOND: u32 = 10_000_000;

/// A count of units in a period: `100/s`, `5/15min`, `10000/day`, `1000/month`.
///
/// Written as `COUNT/UNIT`, the unit being `s`, `min`, `h`, `day` or `week`, optionally with a number in
/// front of it (`100/10s`), or `month`, which only a [fixed window](crate::Algorithm::FixedWindow) can
/// count by. Between 1 in ten years and 10 000 000 a second.
///
/// ```
/// use ratelimit_core::Rate;
/// let rate: Rate = "5/15min".parse()?;
/// assert_eq!(rate.count(), 5);
/// assert_eq!(rate.to_string(), "5/15min");
/// assert!("5/15m".parse::<Rate>().unwrap_err().to_string().contains("min"));
/// # Ok::<(), ratelimit_core::RateError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    period: Period,
}

/// The length of time a [`Rate`] counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Period {
    /// A whole number of seconds, at least one.
    Seconds(u32),
    /// A month of the calendar, in the time zone of the limit that uses it.
    Month,
}

/// Why a text or a pair of numbers is not a [`Rate`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RateError {
    /// The text has no `/`, or nothing on one side of it.
    Shape(String),
    /// What stands before the `/` is not a whole number from 1 to 4294967295.
    Count(String),
    /// The number before the unit is not a whole number of at least 1.
    Multiple(String),
    /// No such unit; the second field is the nearest one there is.
    Unit(String, &'static str),
    /// The period is zero, longer than ten years, or not a whole number of seconds.
    Period,
    /// More than 10 000 000 units a second.
    TooFast,
}

const UNITS: [(&str, u32); 5] = [("s", 1), ("min", 60), ("h", 3600), ("day", 86_400), ("week", 604_800)];

impl Rate {
    /// `count` units in `period`, which must be a whole number of seconds.
    ///
    /// # Errors
    /// When the count is 0, the period is not a whole number of seconds between 1 s and ten years, or the
    /// two make more than 10 000 000 units a second.
    pub fn new(count: u32, period: Duration) -> Result<Self, RateError> {
        let seconds = u32::try_from(period.as_secs()).map_err(|_| RateError::Period)?;
        if period.subsec_nanos() != 0 {
            return Err(RateError::Period);
        }
        Self::checked(count, Period::Seconds(seconds))
    }

    /// `count` units in each month of the calendar; for a fixed window alone.
    ///
    /// # Errors
    /// When the count is 0.
    pub fn per_month(count: u32) -> Result<Self, RateError> {
        Self::checked(count, Period::Month)
    }

    /// `count` units a second.
    ///
    /// # Panics
    /// When `count` is 0 or above 10 000 000; in a `const` that is an error of compilation.
    #[must_use]
    pub const fn per_second(count: u32) -> Self {
        assert!(count > 0 && count <= MAX_PER_SECOND, "a rate lies between 1 and 10 000 000 a second");
        Self { count, period: Period::Seconds(1) }
    }

    /// `count` units a minute.
    ///
    /// # Panics
    /// When `count` is 0 or above 600 000 000; in a `const` that is an error of compilation.
    #[must_use]
    pub const fn per_minute(count: u32) -> Self {
        assert!(count > 0 && count <= 60 * MAX_PER_SECOND, "a rate lies between 1 and 600 000 000 a minute");
        Self { count, period: Period::Seconds(60) }
    }

    /// `count` units an hour.
    ///
    /// # Panics
    /// When `count` is 0; in a `const` that is an error of compilation.
    #[must_use]
    pub const fn per_hour(count: u32) -> Self {
        assert!(count > 0, "a rate has a count of at least 1");
        Self { count, period: Period::Seconds(3600) }
    }

    const fn checked(count: u32, period: Period) -> Result<Self, RateError> {
        if count == 0 {
            return Err(RateError::Count(String::new()));
        }
        if let Period::Seconds(seconds) = period {
            if seconds == 0 || seconds > MAX_PERIOD_SECONDS {
                return Err(RateError::Period);
            }
            if count as u64 > seconds as u64 * MAX_PER_SECOND as u64 {
                return Err(RateError::TooFast);
            }
        }
        Ok(Self { count, period })
    }

    /// Units in each period.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count
    }

    /// The period the count refers to.
    #[must_use]
    pub const fn period(self) -> Period {
        self.period
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (count, period) = text
            .split_once('/')
            .map(|(count, period)| (count.trim(), period.trim()))
            .filter(|(count, period)| !count.is_empty() && !period.is_empty())
            .ok_or_else(|| RateError::Shape(text.to_owned()))?;
        let count = whole_number(count).ok_or_else(|| RateError::Count(count.to_owned()))?;
        let digits = period.len() - period.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (multiple, unit) = period.split_at(digits);
        let unit = unit.trim_start();
        let many = if multiple.is_empty() {
            1
        } else {
            whole_number(multiple).ok_or_else(|| RateError::Multiple(multiple.to_owned()))?
        };
        if unit == "month" {
            return if many == 1 {
                Self::checked(count, Period::Month)
            } else {
                Err(RateError::Multiple(multiple.to_owned()))
            };
        }
        let (_, seconds) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| RateError::Unit(unit.to_owned(), nearest_unit(unit)))?;
        let seconds = seconds.checked_mul(many).ok_or(RateError::Period)?;
        Self::checked(count, Period::Seconds(seconds))
    }
}

/// Digits only, so that `+5` and `1_000` are refused, and never 0.
fn whole_number(text: &str) -> Option<u32> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|&n| n > 0)
}

/// The unit that shares the longest beginning with what was written; `s` for what resembles none.
fn nearest_unit(written: &str) -> &'static str {
    let written = written.to_ascii_lowercase();
    match written.as_str() {
        "d" => return "day",
        "w" => return "week",
        "mo" | "mon" | "months" => return "month",
        _ => {}
    }
    let shared = |name: &str| name.bytes().zip(written.bytes()).take_while(|(a, b)| a == b).count();
    UNITS
        .iter()
        .rev()
        .map(|(name, _)| *name)
        .max_by_key(|name| shared(name))
        .filter(|n| shared(n) > 0)
        .unwrap_or("s")
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = match self.period {
            Period::Month => return write!(f, "{}/month", self.count),
            Period::Seconds(seconds) => seconds,
        };
        let (unit, length) = UNITS
            .iter()
            .rev()
            .find(|(_, length)| seconds.is_multiple_of(*length))
            .copied()
            .unwrap_or(("s", 1));
        match seconds / length {
            1 => write!(f, "{}/{unit}", self.count),
            many => write!(f, "{}/{many}{unit}", self.count),
        }
    }
}

impl fmt::Display for RateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(text) => {
                write!(f, "{text:?} is not a rate: write COUNT/UNIT, such as 100/s or 5/15min")
            }
            Self::Count(text) => write!(f, "{text:?} is not a count: a whole number from 1 to 4294967295"),
            Self::Multiple(text) => write!(
                f,
                "{text:?} is not a number of units: a whole number of at least 1 (a month takes none)"
            ),
            Self::Unit(unit, nearest) => {
                write!(
                    f,
                    "there is no unit {unit:?}; did you mean {nearest:?}? The units are s, min, h, day, week and month"
                )
            }
            Self::Period => write!(
                f,
                "the period of a rate is a whole number of seconds, at least 1 s and at most ten years"
            ),
            Self::TooFast => write!(f, "a rate is at most 10000000/s"),
        }
    }
}

impl std::error::Error for RateError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_unit_of_the_language() {
        for (text, count, seconds) in [
            ("100/s", 100, 1),
            ("100/10s", 100, 10),
            ("5/min", 5, 60),
            ("5/15min", 5, 900),
            ("7/h", 7, 3600),
            ("10000/day", 10_000, 86_400),
            ("3/2week", 3, 1_209_600),
            (" 5 / 15 min ", 5, 900),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.count(), rate.period()), (count, Period::Seconds(seconds)), "{text}");
        }
        assert_eq!("9/month".parse::<Rate>().unwrap().period(), Period::Month);
    }

    #[test]
    fn what_is_refused_and_with_which_hint() {
        for (text, hint) in [
            ("100", "COUNT/UNIT"),
            ("/s", "COUNT/UNIT"),
            ("0/s", "whole number"),
            ("-1/s", "whole number"),
            ("1.5/s", "whole number"),
            ("NaN/s", "whole number"),
            ("+5/s", "whole number"),
            ("4294967296/s", "whole number"),
            ("5/0s", "at least 1"),
            ("5/2month", "month takes none"),
            ("5/m", "\"min\""),
            ("5/sec", "\"s\""),
            ("5/hour", "\"h\""),
            ("5/d", "\"day\""),
            ("5/days", "\"day\""),
            ("5/weeks", "\"week\""),
            ("10000001/s", "at most 10000000/s"),
            ("1/999999week", "ten years"),
        ] {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn display_is_read_back(count in 1u32.., seconds in 1u32..MAX_PERIOD_SECONDS) {
            if let Ok(rate) = Rate::new(count, Duration::from_secs(u64::from(seconds))) {
                prop_assert_eq!(rate.to_string().parse::<Rate>().unwrap(), rate);
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,12}") {
            let _ = text.parse::<Rate>();
        }
    }
}
