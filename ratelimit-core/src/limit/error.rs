//! [`LimitError`]: why numbers don't make a limit.

use std::fmt;

use super::build::nominal_refill;
use super::spec::Algorithm;
use crate::rate::Rate;

/// Why numbers don't make a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitError {
    /// The name is empty, longer than 64, or has other characters than `A–Z a–z 0–9 _ . -`.
    Name(String),
    /// A quota that must be given is missing; the field says which.
    Missing(&'static str),
    /// Something that this algorithm has no use for; the field says what.
    Surplus(&'static str, Algorithm),
    /// A burst, count or number of permits of zero.
    Zero(&'static str),
    /// A month, or a time zone, for an algorithm that does not follow the calendar.
    CalendarNeedsFixedWindow,
    /// No such time zone.
    TimeZone(String),
    /// Filling the bucket would take more than 36 years.
    TooSlow {
        /// Units that would have to come back: the burst, and the debt if there is one.
        burst: u32,
        /// The rate at which they would.
        rate: Rate,
    },
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => {
                write!(f, "{name:?} is not a name of a limit: write 1 to 64 of A-Z a-z 0-9 _ . -")
            }
            Self::Missing(what) => write!(f, "no {what} given for the limit"),
            Self::Surplus(what, algorithm) => write!(f, "{algorithm} has no {what}"),
            Self::Zero(what) => write!(f, "{what} must be at least 1"),
            Self::CalendarNeedsFixedWindow => {
                f.write_str("only the algorithm fixed_window counts by the month or in a time zone")
            }
            Self::TimeZone(name) => {
                write!(f, "there is no time zone {name:?}; write one such as Europe/Berlin")
            }
            Self::TooSlow { burst, rate } => {
                let years = nominal_refill(*burst, Some(*rate)).div_ceil(31_556_952);
                write!(
                    f,
                    "at {rate} a burst of {burst} (with the debt) would take {years} years to refill, more than 36"
                )
            }
        }
    }
}

impl std::error::Error for LimitError {}
