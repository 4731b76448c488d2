//! Calls of the shared store, counted by the one task that makes them.

use std::sync::atomic::AtomicU64;

use ratelimit_core::StoreErrorKind;
use ratelimit_redis::Call;

use super::histogram::{Distribution, Histogram};
use super::metrics::{add, sum};

/// What became of a request to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// It was answered.
    Ok,
    /// Not in time; the charge may have been made.
    Timeout,
    /// The store could not be reached, or said that it can't serve.
    Unavailable,
    /// It refused us.
    Misconfigured,
    /// Something that is not ours lay at the key.
    ForeignData,
    /// It answered nonsense.
    Protocol,
    /// Too many were waiting already, so it was not asked.
    Overloaded,
}

impl Answered {
    /// All of them, with the words that stand for them in metrics.
    pub(crate) const ALL: [(Self, &'static str); 7] = [
        (Self::Ok, "ok"),
        (Self::Timeout, "timeout"),
        (Self::Unavailable, "unavailable"),
        (Self::Misconfigured, "misconfigured"),
        (Self::ForeignData, "foreign_data"),
        (Self::Protocol, "protocol"),
        (Self::Overloaded, "overloaded"),
    ];

    fn of(failed: Option<StoreErrorKind>) -> Self {
        match failed {
            None => Self::Ok,
            Some(StoreErrorKind::Timeout) => Self::Timeout,
            Some(StoreErrorKind::Misconfigured) => Self::Misconfigured,
            Some(StoreErrorKind::ForeignData) => Self::ForeignData,
            Some(StoreErrorKind::Protocol) => Self::Protocol,
            Some(StoreErrorKind::Overloaded) => Self::Overloaded,
            Some(_) => Self::Unavailable,
        }
    }
}

/// What the calls of a store came to.
#[derive(Debug, Default)]
pub(crate) struct StoreCalls {
    requests: [AtomicU64; Answered::ALL.len()],
    seconds: Histogram,
}

/// All of them, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CallTotals {
    /// Requests, in the order of [`Answered::ALL`].
    pub(crate) requests: [u64; Answered::ALL.len()],
    /// How long calls took.
    pub(crate) seconds: Distribution,
}

impl StoreCalls {
    /// One more call. For one thread only.
    pub(crate) fn record(&self, call: &Call) {
        self.seconds.observe(call.took);
        let foreign = wide(call.foreign);
        self.count(Answered::of(call.failed), wide(call.requests).saturating_sub(foreign));
        self.count(Answered::ForeignData, foreign);
    }

    fn count(&self, how: Answered, requests: u64) {
        if let Some(count) = self.requests.get(how as usize) {
            add(count, requests);
        }
    }

    /// What they came to so far.
    pub(crate) fn totals(&self) -> CallTotals {
        let mut totals = CallTotals::default();
        sum(&mut totals.requests, &self.requests);
        self.seconds.add_to(&mut totals.seconds);
        totals
    }
}

impl CallTotals {
    /// Requests that ended so.
    pub(crate) fn requests(&self, how: Answered) -> u64 {
        self.requests.get(how as usize).copied().unwrap_or_default()
    }
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl StoreGauges {
    /// Requests that ended so.
    pub(crate) fn requests(&self, how: Answered) -> u64 {
        if how == Answered::Overloaded { self.overloaded } else { self.calls.requests(how) }
    }
}

/// What there is to tell about a store that is shared.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StoreGauges {
    /// Whether it answers, as far as is known.
    pub(crate) up: bool,
    /// Replicas that share it, as far as is known.
    pub(crate) replicas: u32,
    /// What its calls came to.
    pub(crate) calls: CallTotals,
    /// Requests that were not sent because too many were waiting.
    pub(crate) overloaded: u64,
    /// Charges after the fact that the store was never told of.
    pub(crate) lost_posts: u64,
    /// Units that lie in this process's leases, if it has any.
    pub(crate) leased_tokens: Option<u64>,
}
