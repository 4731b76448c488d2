//! [`Limit`]: a named rule with its quota, and [`LimitSpec`], the same as data.

use std::fmt;
use std::sync::Arc;

use jiff::tz::TimeZone;

use crate::algorithm::{Concurrency, FixedWindow, Gcra, Program, SlidingWindow};
use crate::rate::{Period, Rate};
use crate::time::Nanos;

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

/// What tells limits apart in a store: a number that follows from the name, the same in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LimitId(u64);

impl LimitId {
    fn of(name: &str) -> Self {
        // FNV-1a with a final mix: names are few and chosen by the operator, so nothing stronger is needed.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mixed = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        Self(mixed ^ (mixed >> 32))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
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

/// A named limit with its quota. Cheap to clone; build it once and share it.
///
/// Limits of the same name share their counters: a limit with another quota and the same name
/// ([`Limit::with_quota`]) is an override of it.
///
/// ```
/// use ratelimit_core::{Algorithm, Limit, Rate};
/// let per_user = Limit::new("per-user", "100/s".parse()?).burst(200);
/// let login = Limit::new("login", Rate::per_minute(5)).algorithm(Algorithm::SlidingWindow);
/// let reports = Limit::concurrency("reports", 4);
/// # Ok::<(), ratelimit_core::RateError>(())
/// ```
#[derive(Clone)]
pub struct Limit(Arc<Inner>);

struct Inner {
    spec: LimitSpec,
    id: LimitId,
    program: Program,
    window: u64,
}

impl Limit {
    /// A token bucket whose burst is the rate's count, or a fixed window where the rate is by the month.
    ///
    /// # Panics
    /// When the name is not 1 to 64 of `A–Z a–z 0–9 _ . -`, or the bucket would take more than 36 years to
    /// fill. Use [`Limit::try_from`] with a [`LimitSpec`] for names and numbers that come from elsewhere.
    #[must_use]
    pub fn new(name: impl Into<String>, rate: Rate) -> Self {
        Self::build(LimitSpec::new(name, rate))
    }

    /// A limit on how many may be under way at once.
    ///
    /// # Panics
    /// When `permits` is 0 or the name not 1 to 64 of `A–Z a–z 0–9 _ . -`.
    #[must_use]
    pub fn concurrency(name: impl Into<String>, permits: u32) -> Self {
        Self::build(LimitSpec::concurrency(name, permits))
    }

    /// With another burst: the most units that can be taken at once.
    ///
    /// # Panics
    /// When it is 0, would take more than 36 years to fill, or the limit is not a token bucket.
    #[must_use]
    pub fn burst(&self, burst: u32) -> Self {
        self.rebuild(|spec| spec.burst = Some(burst))
    }

    /// With another algorithm. Changing it later, under the same name, starts with fresh counters.
    ///
    /// # Panics
    /// When the quota does not suit the algorithm: a month without fixed window, a burst without token bucket.
    #[must_use]
    pub fn algorithm(&self, algorithm: Algorithm) -> Self {
        self.rebuild(|spec| spec.algorithm = algorithm)
    }

    /// Lets charges that come after the fact take the balance up to `units` below zero.
    ///
    /// # Panics
    /// When coming back from there would take more than 36 years, or for a concurrency limit.
    #[must_use]
    pub fn debt(&self, units: u32) -> Self {
        self.rebuild(|spec| spec.debt = units)
    }

    /// Makes a fixed window follow the calendar of a time zone, such as `Europe/Berlin`.
    ///
    /// # Panics
    /// When there is no such zone, or the limit is not a fixed window.
    #[must_use]
    pub fn time_zone(&self, name: impl Into<String>) -> Self {
        self.rebuild(|spec| spec.time_zone = Some(name.into()))
    }

    /// Evaluated, charged and reported, but never denying.
    #[must_use]
    pub fn shadow(&self) -> Self {
        self.rebuild(|spec| spec.mode = Mode::Shadow)
    }

    /// The same limit with another quota for some key: same name, same counters. What was used stays used.
    /// `burst` is for a token bucket; its count if `None`.
    ///
    /// # Errors
    /// As for [`Limit::try_from`].
    pub fn with_quota(&self, rate: Rate, burst: Option<u32>) -> Result<Self, LimitError> {
        Self::try_from(LimitSpec { rate: Some(rate), burst, ..self.0.spec.clone() })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.spec.name
    }

    /// What tells it apart in a store.
    #[must_use]
    pub fn id(&self) -> LimitId {
        self.0.id
    }

    /// The data it was made of.
    #[must_use]
    pub fn spec(&self) -> &LimitSpec {
        &self.0.spec
    }

    /// What stores run.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.0.program
    }

    /// Whether it is evaluated without ever denying.
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.0.spec.mode == Mode::Shadow
    }

    /// What a fully recovered key has: units, or permits.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.0.program.capacity()
    }

    /// Seconds in which the capacity comes back, rounded up, at least 1 (30 days stand for a month); `None` for
    /// concurrency.
    #[must_use]
    pub fn window_seconds(&self) -> Option<u64> {
        (self.0.window > 0).then_some(self.0.window)
    }

    fn rebuild(&self, change: impl FnOnce(&mut LimitSpec)) -> Self {
        let mut spec = self.0.spec.clone();
        change(&mut spec);
        Self::build(spec)
    }

    #[expect(
        clippy::panic,
        reason = "documented: the builder is for quotas written in code; data goes through TryFrom"
    )]
    fn build(spec: LimitSpec) -> Self {
        match Self::try_from(spec) {
            Ok(limit) => limit,
            Err(error) => panic!("{error}"),
        }
    }
}

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
fn nominal_refill(burst: u32, rate: Option<Rate>) -> u64 {
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

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Limit").field(&self.0.spec).finish()
    }
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
