//! What the handles of a store and its task have in common.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ratelimit_core::time::Clock as _;
use ratelimit_core::{Nanos, StoreErrorKind, SystemClock};

use crate::batch::Request;
use crate::denied::Denied;
use crate::fallback::{Fallback, Outage};
use crate::notes::Known;

/// Replicas that are assumed when the store was never reached and none were configured.
const UNKNOWN_REPLICAS: u32 = 8;
/// How long the largest number that was seen counts: never too small while replicas come and go.
const MEMORY: Nanos = Nanos::from_secs(60);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: SystemClock,
    pub(crate) denied: Denied,
    pub(crate) replicas: Replicas,
    pub(crate) counters: Counters,
    pub(crate) fallback: Fallback,
    /// What replicas tell each other.
    pub(crate) known: Known,
    /// Releases of permits that found the queue full: they must not be lost, or the permits would be renewed for
    /// ever. As many as there are permits, at most.
    releases: Mutex<Vec<Request>>,
    /// The store is not asked: it is gone, or just back and not everybody knows.
    away: AtomicBool,
}

impl Shared {
    pub(crate) fn new(replicas: Option<u32>) -> Self {
        Self {
            clock: SystemClock::default(),
            denied: Denied::new(),
            replicas: Replicas { configured: replicas, ..Replicas::default() },
            counters: Counters::default(),
            fallback: Fallback::default(),
            known: Known::new(),
            releases: Mutex::default(),
            away: AtomicBool::new(true),
        }
    }

    pub(crate) fn now(&self) -> Nanos {
        self.clock.now()
    }

    /// Whether the store is asked.
    pub(crate) fn is_up(&self) -> bool {
        !self.away.load(Ordering::Acquire)
    }

    /// From now on it is not, or it is.
    pub(crate) fn set_up(&self, up: bool) {
        self.away.store(!up, Ordering::Release);
    }

    /// Keeps a release for later.
    pub(crate) fn release_later(&self, request: Request) {
        self.releases.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }

    /// The releases that were kept.
    pub(crate) fn kept_releases(&self) -> Vec<Request> {
        std::mem::take(&mut *self.releases.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The outage that local decisions belong to.
    pub(crate) fn outage(&self, now: Nanos) -> Arc<Outage> {
        self.fallback.outage(now, self.replicas.count())
    }
}

/// How many replicas share the store.
#[derive(Debug, Default)]
pub(crate) struct Replicas {
    configured: Option<u32>,
    /// Largest number heard of in this minute and the one before; 0: none yet.
    recent: AtomicU32,
    before: AtomicU32,
    /// When this minute began, in nanoseconds.
    since: AtomicU64,
}

impl Replicas {
    /// The store said how many there are.
    pub(crate) fn heard(&self, replicas: u32, now: Nanos) {
        let since = Nanos::new(self.since.load(Ordering::Relaxed));
        if now.saturating_sub(since) >= MEMORY {
            self.since.store(now.get(), Ordering::Relaxed);
            self.before.store(self.recent.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
        self.recent.fetch_max(replicas, Ordering::Relaxed);
    }

    /// The number by which a share is divided.
    pub(crate) fn count(&self) -> u32 {
        if let Some(configured) = self.configured {
            return configured.max(1);
        }
        let heard = self.recent.load(Ordering::Relaxed).max(self.before.load(Ordering::Relaxed));
        if heard == 0 { UNKNOWN_REPLICAS } else { heard }
    }
}

/// What went wrong, by number.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    timeouts: AtomicU64,
    unavailable: AtomicU64,
    misconfigured: AtomicU64,
    foreign: AtomicU64,
    protocol: AtomicU64,
    overloaded: AtomicU64,
    lost_posts: AtomicU64,
    data_losses: AtomicU64,
    restarts: AtomicU64,
}

impl Counters {
    pub(crate) fn failed(&self, kind: StoreErrorKind, requests: usize) {
        let counter = match kind {
            StoreErrorKind::Timeout => &self.timeouts,
            StoreErrorKind::Misconfigured => &self.misconfigured,
            StoreErrorKind::ForeignData => &self.foreign,
            StoreErrorKind::Protocol => &self.protocol,
            StoreErrorKind::Overloaded => &self.overloaded,
            _ => &self.unavailable,
        };
        counter.fetch_add(u64::try_from(requests).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn foreign(&self) {
        self.foreign.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn lost_post(&self) {
        self.lost_posts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn data_lost(&self) {
        self.data_losses.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn restarted(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Troubles {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Troubles {
            timeouts: read(&self.timeouts),
            unavailable: read(&self.unavailable),
            misconfigured: read(&self.misconfigured),
            foreign_data: read(&self.foreign),
            protocol: read(&self.protocol),
            overloaded: read(&self.overloaded),
            lost_posts: read(&self.lost_posts),
            data_losses: read(&self.data_losses),
            restarts: read(&self.restarts),
        }
    }
}

impl Troubles {
    /// Those of two partitions.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            timeouts: self.timeouts + other.timeouts,
            unavailable: self.unavailable + other.unavailable,
            misconfigured: self.misconfigured + other.misconfigured,
            foreign_data: self.foreign_data + other.foreign_data,
            protocol: self.protocol + other.protocol,
            overloaded: self.overloaded + other.overloaded,
            lost_posts: self.lost_posts + other.lost_posts,
            data_losses: self.data_losses + other.data_losses,
            restarts: self.restarts + other.restarts,
        }
    }
}

/// Decisions that the store did not make, by what kept it from it, and what it lost, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Troubles {
    /// No answer in time; the charge may have been made.
    pub timeouts: u64,
    /// It could not be reached, or said that it can't serve.
    pub unavailable: u64,
    /// It refused us.
    pub misconfigured: u64,
    /// Something that is not ours lay at the key.
    pub foreign_data: u64,
    /// It answered nonsense.
    pub protocol: u64,
    /// Too many were waiting already.
    pub overloaded: u64,
    /// Debits and refunds that nobody waited for and that could not be queued.
    pub lost_posts: u64,
    /// Times that the store's data was found gone: a fresh burst for every key.
    pub data_losses: u64,
    /// Times that the store was found started again, or another server in its place.
    pub restarts: u64,
}
