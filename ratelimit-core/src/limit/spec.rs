//! [`LimitSpec`]: a limit as data, with the words for how it counts.

use std::fmt;

use crate::rate::{Period, Rate};

/// How a limit counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// Refills steadily, allows a burst: never more than burst + rate · W in any interval of length W.
    #[default]
    TokenBucket,
    /// Never more than the count in any interval as long as the period; state eleven counters.
    SlidingWindow,
    /// Never more than the count in each period of the calendar; for plan quotas.
    FixedWindow,
    /// Never more than so many at once.
    Concurrency,
}

/// Whether a limit's "no" counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// It denies.
    #[default]
    Enforce,
    /// It is evaluated, charged and reported, but never denies.
    Shadow,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TokenBucket => "token_bucket",
            Self::SlidingWindow => "sliding_window",
            Self::FixedWindow => "fixed_window",
            Self::Concurrency => "concurrency",
        })
    }
}

/// A limit as data: what configurations are turned into.
#[derive(Clone, Debug)]
pub struct LimitSpec {
    /// 1 to 64 of `A–Z a–z 0–9 _ . -`.
    pub name: String,
    /// How it counts.
    pub algorithm: Algorithm,
    /// How much in how long; not for concurrency.
    pub rate: Option<Rate>,
    /// Most units at once; the rate's count if `None`. Token bucket only.
    pub burst: Option<u32>,
    /// Most permits at once; concurrency only.
    pub permits: Option<u32>,
    /// How many units below zero a [debit](crate::algorithm::Op::Debit) may take the balance.
    pub debt: u32,
    /// Name of the time zone whose calendar a fixed window follows; UTC if `None`.
    pub time_zone: Option<String>,
    /// Whether its "no" counts.
    pub mode: Mode,
}

impl LimitSpec {
    /// A token bucket, or a fixed window where the rate is by the month.
    #[must_use]
    pub fn new(name: impl Into<String>, rate: Rate) -> Self {
        let algorithm = match rate.period() {
            Period::Month => Algorithm::FixedWindow,
            Period::Seconds(_) => Algorithm::TokenBucket,
        };
        Self { algorithm, rate: Some(rate), ..Self::concurrency(name, 0) }.without_permits()
    }

    /// A limit on how many may be under way at once.
    #[must_use]
    pub fn concurrency(name: impl Into<String>, permits: u32) -> Self {
        Self {
            name: name.into(),
            algorithm: Algorithm::Concurrency,
            rate: None,
            burst: None,
            permits: Some(permits),
            debt: 0,
            time_zone: None,
            mode: Mode::Enforce,
        }
    }

    fn without_permits(mut self) -> Self {
        self.permits = None;
        self
    }
}
