//! [`Limit`]: a named rule with its quota, and [`LimitSpec`], the same as data.

mod build;
mod error;
mod spec;

use std::fmt;
use std::sync::Arc;

pub use error::LimitError;
pub use spec::{Algorithm, LimitSpec, Mode};

use crate::algorithm::Program;
use crate::rate::Rate;

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

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Limit").field(&self.0.spec).finish()
    }
}
