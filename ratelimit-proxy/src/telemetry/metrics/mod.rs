//! Counters. Names and labels are in `exposition.rs`; here is what is counted.
//!
//! A thread counts for itself ([`WorkerMetrics`]), with plain loads and stores to memory that no other thread
//! writes; whoever asks adds the threads up ([`Metrics::totals`]). Nothing here grows with what clients send:
//! the counters are those of the configured limits and of the enums in `words.rs`.

mod limits;
mod totals;
mod words;
mod worker;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::top::{Event, Place, most};

pub use self::limits::LimitTotals;
pub use self::totals::Totals;
pub use self::words::{CODE_CLASSES, DecisionOutcome, Pressure, ProtocolError, Questioned, Reloaded};
pub use self::worker::WorkerMetrics;

/// All of it.
#[derive(Debug)]
pub struct Metrics {
    series: Mutex<Series>,
    /// Those of threads that are gone stay: counters never go back.
    workers: Mutex<Vec<Arc<WorkerMetrics>>>,
    panics: AtomicU64,
    restarts: AtomicU64,
}

/// Limits by number. One that goes keeps its number and its counts for when it comes back.
#[derive(Debug, Default)]
struct Series {
    names: Vec<Box<str>>,
    /// Numbers of those in force, in the order of the policy's rules.
    in_force: Vec<usize>,
    reloads: [u64; Reloaded::ALL.len()],
}

impl Metrics {
    /// For limits of these names, in the order of the policy's rules.
    #[must_use]
    pub fn new(limits: &[&str]) -> Arc<Self> {
        let metrics = Arc::new(Self {
            series: Mutex::default(),
            workers: Mutex::default(),
            panics: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
        });
        metrics.number(limits);
        metrics
    }

    /// Limits of these names are in force from now on, in the order of the policy's rules. Returns their numbers.
    pub fn number(&self, limits: &[&str]) -> Vec<usize> {
        let mut series = self.series();
        let mut known: HashMap<Box<str>, usize> =
            series.names.iter().cloned().enumerate().map(|(number, name)| (name, number)).collect();
        let mut number = |name: &str| {
            *known.entry(name.into()).or_insert_with(|| {
                series.names.push(name.into());
                series.names.len() - 1
            })
        };
        let numbers: Vec<usize> = limits.iter().map(|name| number(name)).collect();
        series.in_force.clone_from(&numbers);
        numbers
    }

    /// The configuration was read again.
    pub fn reloaded(&self, outcome: Reloaded) {
        if let Some(count) = self.series().reloads.get_mut(outcome as usize) {
            *count += 1;
        }
    }

    fn series(&self) -> MutexGuard<'_, Series> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For one more thread.
    #[must_use]
    pub fn worker(self: &Arc<Self>) -> Arc<WorkerMetrics> {
        let worker = Arc::new(WorkerMetrics::default());
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&worker));
        worker
    }

    /// The keys of a limit that were seen most often in that way, over all threads.
    pub(crate) fn top(&self, limit: &str, event: Event, number: usize) -> Vec<Place> {
        let number_of = |names: &[Box<str>]| names.iter().position(|name| &**name == limit);
        let Some(limit) = number_of(&self.series().names) else { return Vec::new() };
        let mut sum = HashMap::new();
        for worker in &*self.workers.lock().unwrap_or_else(PoisonError::into_inner) {
            worker.top.add_to(limit, event, &mut sum);
        }
        most(sum, number)
    }

    /// A panic outside of any request.
    pub fn panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Something in the background died and was started again.
    pub fn restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds all threads up. Counters that are written meanwhile may or may not be in it.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let (numbers, limits, reloads) = {
            let series = self.series();
            let named = |number: &usize| {
                let name = series.names.get(*number).cloned().unwrap_or_default();
                LimitTotals { name, ..LimitTotals::default() }
            };
            let limits = series.in_force.iter().map(named).collect();
            (series.in_force.clone(), limits, series.reloads)
        };
        let mut totals = Totals {
            limits,
            reloads,
            panics: self.panics.load(Ordering::Relaxed),
            restarts: self.restarts.load(Ordering::Relaxed),
            ..Totals::default()
        };
        for worker in &*self.workers.lock().unwrap_or_else(PoisonError::into_inner) {
            worker.add_to(&mut totals, &numbers);
        }
        totals
    }
}

pub(in crate::telemetry) fn sum<const N: usize>(totals: &mut [u64; N], own: &[AtomicU64; N]) {
    for (total, own) in totals.iter_mut().zip(own) {
        *total += read(own);
    }
}

/// Adds to a counter that only this thread writes: cheaper than an operation of read-modify-write.
#[inline]
pub(in crate::telemetry) fn add(counter: &AtomicU64, units: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(units), Ordering::Relaxed);
}

#[inline]
pub(in crate::telemetry) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;

    #[test]
    fn threads_are_added_up_and_stay_when_they_are_gone() {
        let metrics = Metrics::new(&["a", "b"]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let worker = metrics.worker();
                    for _ in 0..1000 {
                        worker.decision(1, DecisionOutcome::Denied);
                        worker.request(StatusCode::OK, Duration::from_millis(1));
                    }
                    worker.decision(0, DecisionOutcome::Local);
                    worker.decision(2, DecisionOutcome::Allowed);
                    worker.near_limit(0);
                    worker.connection_opened();
                    worker.connection_opened();
                    worker.connection_closed();
                    worker.protocol_error(ProtocolError::Timeout);
                    worker.panic();
                });
            }
        });
        metrics.panic();
        let totals = metrics.totals();
        assert_eq!(totals.limits[1].said(DecisionOutcome::Denied), 4000);
        assert_eq!(totals.limits[0].said(DecisionOutcome::Local), 4);
        assert_eq!(totals.limits[0].near, 4);
        assert_eq!(totals.limits[0].said(DecisionOutcome::Allowed), 0);
        assert_eq!(totals.classes, [0, 4000, 0, 0, 0]);
        assert_eq!(totals.requests.count(), 4000);
        assert_eq!(totals.connections, 4);
        assert_eq!(totals.errors, [0, 0, 4, 0, 0, 0]);
        assert_eq!(totals.panics, 5);
    }

    /// A limit that comes back goes on where it was; what is not in force is not told.
    #[test]
    fn limits_come_and_go_and_keep_their_counts() {
        let metrics = Metrics::new(&["a", "b"]);
        let worker = metrics.worker();
        worker.decision(0, DecisionOutcome::Allowed);
        worker.decision(1, DecisionOutcome::Denied);
        assert_eq!(metrics.number(&["c", "b"]), [2, 1]);
        worker.decision(2, DecisionOutcome::Allowed);
        let told = || -> Vec<(String, u64, u64)> {
            let totals = metrics.totals().limits;
            totals
                .into_iter()
                .map(|limit| (limit.name.into(), limit.outcomes[0], limit.outcomes[1]))
                .collect()
        };
        assert_eq!(told(), [("c".into(), 1, 0), ("b".into(), 0, 1)]);
        assert_eq!(metrics.number(&["a"]), [0]);
        assert_eq!(told(), [("a".into(), 1, 0)]);
        let many: Vec<String> = (0..1000).map(|n| format!("limit-{n}")).collect();
        let numbers = metrics.number(&many.iter().map(String::as_str).collect::<Vec<_>>());
        for number in numbers {
            worker.decision(number, DecisionOutcome::Denied);
        }
        assert!(told().iter().all(|(_, allowed, denied)| (*allowed, *denied) == (0, 1)));
    }

    #[test]
    fn odd_statuses_have_a_class() {
        let metrics = Metrics::new(&[]);
        let worker = metrics.worker();
        for status in [100, 204, 999] {
            worker.request(StatusCode::from_u16(status).unwrap(), Duration::ZERO);
        }
        assert_eq!(metrics.totals().classes, [1, 1, 0, 0, 1]);
    }
}
