//! What operators are told of a store's partitions: once when something changes, however many they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many of a store's partitions are in trouble.
#[derive(Debug, Default)]
struct Counts {
    partitions: AtomicUsize,
    /// That do not answer.
    gone: AtomicUsize,
    /// That were gone and are decided without the store still.
    away: AtomicUsize,
}

/// Makes the partitions' [`Standing`]s.
#[derive(Debug, Default)]
pub(crate) struct Health(Arc<Counts>);

/// How one partition stands.
#[derive(Debug)]
pub(crate) struct Standing {
    all: Arc<Counts>,
    is_gone: bool,
    is_away: bool,
}

impl Health {
    /// One more partition, which has not answered yet.
    pub(crate) fn partition(&self) -> Standing {
        self.0.partitions.fetch_add(1, Ordering::Relaxed);
        self.0.gone.fetch_add(1, Ordering::Relaxed);
        Standing { all: Arc::clone(&self.0), is_gone: true, is_away: false }
    }
}

impl Standing {
    /// It does not answer any more.
    pub(crate) fn is_gone(&mut self, why: &'static str) {
        if !std::mem::replace(&mut self.is_away, true) {
            self.all.away.fetch_add(1, Ordering::Relaxed);
        }
        if std::mem::replace(&mut self.is_gone, true) {
            return;
        }
        let gone = self.all.gone.fetch_add(1, Ordering::Relaxed) + 1;
        if gone == self.all.partitions.load(Ordering::Relaxed) {
            tracing::warn!(why, "the store is gone");
        } else if gone == 1 {
            tracing::warn!(why, "a part of the store is gone");
        }
    }

    /// It answers.
    pub(crate) fn answers(&mut self) {
        if std::mem::take(&mut self.is_gone) && self.all.gone.fetch_sub(1, Ordering::Relaxed) == 1 {
            tracing::info!("the store answers");
        }
    }

    /// Its decisions are the store's again; `told` if they were made elsewhere in between.
    pub(crate) fn decides(&mut self, told: bool) {
        let is_last = std::mem::take(&mut self.is_away) && self.all.away.fetch_sub(1, Ordering::Relaxed) == 1;
        if is_last && told {
            tracing::info!("decisions are the store's again");
        }
    }
}
