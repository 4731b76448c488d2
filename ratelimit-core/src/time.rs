//! The only file that reads a clock. Everything else takes `now` as a value.

use std::sync::Arc;
use std::time::Duration;

use crate::sync::{AtomicU64, Ordering};

/// Nanoseconds: a length of time, or the time since a clock's origin. Saturates instead of overflowing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(u64);

impl Nanos {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// 584 years: later than anything a limit can say.
    pub const MAX: Self = Self(u64::MAX);

    /// That many nanoseconds.
    #[must_use]
    pub const fn new(nanos: u64) -> Self {
        Self(nanos)
    }

    /// That many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000))
    }

    /// As a number of nanoseconds.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whole seconds, rounded down.
    #[must_use]
    pub const fn whole_secs(self) -> u64 {
        self.0 / 1_000_000_000
    }

    /// Whole seconds, rounded up: what `Retry-After` needs.
    #[must_use]
    pub const fn secs_rounded_up(self) -> u64 {
        self.0.div_ceil(1_000_000_000)
    }

    /// The sum, at most [`Nanos::MAX`].
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, at least zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl From<Duration> for Nanos {
    fn from(length: Duration) -> Self {
        Self(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Nanos> for Duration {
    fn from(nanos: Nanos) -> Self {
        Self::from_nanos(nanos.0)
    }
}

/// Where a store in this process takes its time from.
pub trait Clock: Send + Sync + 'static {
    /// Time since an origin of the clock's own choosing. It must not step back by more than the difference
    /// between two processors' counters; token buckets and sliding windows count by it.
    fn now(&self) -> Nanos;

    /// Time since the Unix epoch. It may step in either direction; fixed windows alone count by it, because
    /// they are aligned to the calendar.
    fn utc(&self) -> Nanos;
}

/// The machine's clocks: the processor's time stamp counter where it is invariant (about 6 ns a reading),
/// the operating system's monotonic clock elsewhere, and the wall clock for UTC.
#[derive(Clone, Debug)]
pub struct SystemClock {
    clock: quanta::Clock,
    origin: u64,
}

impl Default for SystemClock {
    fn default() -> Self {
        let clock = quanta::Clock::new();
        let origin = clock.raw();
        Self { clock, origin }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Nanos {
        Nanos(self.clock.delta_as_nanos(self.origin, self.clock.raw()))
    }

    fn utc(&self) -> Nanos {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
        let now = std::time::SystemTime::now();
        // A wall clock before 1970 is taken as 1970: windows then start at the epoch.
        now.duration_since(std::time::UNIX_EPOCH).map_or(Nanos::ZERO, Nanos::from)
    }
}

/// A clock driven by hand, for tests and for replaying recorded traffic. Clones share the time.
///
/// ```
/// use ratelimit_core::{Limit, Limiter, ManualClock, MemoryStore};
/// use std::time::Duration;
///
/// let clock = ManualClock::default();
/// let limiter = Limiter::new(MemoryStore::with_clock(clock.clone()));
/// let one_a_second = Limit::new("one", "1/s".parse()?);
/// assert!(limiter.try_check(&one_a_second, "ann").is_allowed());
/// assert!(!limiter.try_check(&one_a_second, "ann").is_allowed());
/// clock.advance(Duration::from_secs(1));
/// assert!(limiter.try_check(&one_a_second, "ann").is_allowed());
/// # Ok::<(), ratelimit_core::RateError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    time: Arc<ManualTime>,
}

#[derive(Debug)]
struct ManualTime {
    now: AtomicU64,
    utc: AtomicU64,
}

impl Default for ManualClock {
    /// Starts at its origin, the wall clock at 2026-01-01 00:00:00 UTC.
    fn default() -> Self {
        Self::at(Nanos::from_secs(1_767_225_600))
    }
}

impl ManualClock {
    /// Starts at its origin, with the wall clock at `utc` since the Unix epoch.
    #[must_use]
    pub fn at(utc: Nanos) -> Self {
        Self { time: Arc::new(ManualTime { now: AtomicU64::new(0), utc: AtomicU64::new(utc.get()) }) }
    }

    /// Lets `length` pass, on both clocks.
    pub fn advance(&self, length: Duration) {
        let length = Nanos::from(length).get();
        for hand in [&self.time.now, &self.time.utc] {
            let before = hand.load(Ordering::Relaxed);
            hand.store(before.saturating_add(length), Ordering::Relaxed);
        }
    }

    /// Sets the wall clock alone, forwards or back, as an administrator or NTP would.
    pub fn set_utc(&self, utc: Nanos) {
        self.time.utc.store(utc.get(), Ordering::Relaxed);
    }

    /// Sets the monotonic hand alone, even backwards: what no real clock does, and limits must survive.
    pub fn set_now(&self, now: Nanos) {
        self.time.now.store(now.get(), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Nanos {
        Nanos(self.time.now.load(Ordering::Relaxed))
    }

    fn utc(&self) -> Nanos {
        Nanos(self.time.utc.load(Ordering::Relaxed))
    }
}

/// Tokio's clock, so that `tokio::time::pause` and `advance` drive limits too.
#[cfg(feature = "tokio")]
#[derive(Clone, Debug)]
pub struct TokioClock {
    origin: tokio::time::Instant,
    utc: Nanos,
}

#[cfg(feature = "tokio")]
impl Default for TokioClock {
    /// Takes this moment as the origin.
    fn default() -> Self {
        Self { origin: tokio::time::Instant::now(), utc: SystemClock::default().utc() }
    }
}

#[cfg(feature = "tokio")]
impl Clock for TokioClock {
    fn now(&self) -> Nanos {
        Nanos::from(tokio::time::Instant::now() - self.origin)
    }

    fn utc(&self) -> Nanos {
        self.utc.saturating_add(self.now())
    }
}
