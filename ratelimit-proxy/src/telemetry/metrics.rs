//! Counters. Names and labels are in `exposition.rs`; here is what is counted.
//!
//! A thread counts for itself ([`WorkerMetrics`]), with plain loads and stores to memory that no other thread
//! writes; whoever asks adds the threads up ([`Metrics::totals`]). Nothing here grows with what clients send:
//! the counters are those of the configured limits and of the enums below.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use http::StatusCode;

use super::histogram::{Distribution, Histogram};

/// What a limit said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionOutcome {
    /// Yes.
    Allowed,
    /// No.
    Denied,
    /// No, in shadow mode.
    ShadowDenied,
    /// Nobody could say, so yes.
    FailedOpen,
    /// Nobody could say, so no.
    FailedClosed,
    /// Yes, by this process alone.
    Local,
}

impl DecisionOutcome {
    /// All of them, with the words that stand for them in metrics.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Allowed, "allowed"),
        (Self::Denied, "denied"),
        (Self::ShadowDenied, "shadow_denied"),
        (Self::FailedOpen, "failed_open"),
        (Self::FailedClosed, "failed_closed"),
        (Self::Local, "local"),
    ];
}

/// What a peer did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// A head that makes no sense.
    Head,
    /// A body that makes no sense.
    Body,
    /// Too slow.
    Timeout,
    /// Anything else.
    Other,
}

impl ProtocolError {
    /// All of them, with the words that stand for them in metrics.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Head, "head"), (Self::Body, "body"), (Self::Timeout, "timeout"), (Self::Other, "other")];
}

/// What became of a question of Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Questioned {
    /// Yes.
    Allowed,
    /// No.
    Denied,
    /// No limit is about it, so yes.
    Unmatched,
    /// It makes no sense.
    Invalid,
    /// Nobody could say.
    Undecided,
}

impl Questioned {
    /// All of them, with the words that stand for them in metrics.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Allowed, "allowed"),
        (Self::Denied, "denied"),
        (Self::Unmatched, "unmatched"),
        (Self::Invalid, "invalid"),
        (Self::Undecided, "undecided"),
    ];
}

/// What there was not enough of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Connections: a thread had as many as it may, and the next ones waited.
    Full,
    /// What the machine has to give for a connection: file descriptors, memory of the kernel.
    Starved,
    /// Memory: a request was refused.
    Shed,
}

/// How many there are.
const PRESSURES: usize = 3;

/// The classes of status codes, as they stand in metrics.
pub const CODE_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

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

/// What became of reading the configuration again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// It is in force.
    Applied,
    /// The old one stays in force.
    Refused,
}

impl Reloaded {
    /// All of them, with the words that stand for them in metrics.
    pub const ALL: [(Self, &'static str); 2] = [(Self::Applied, "applied"), (Self::Refused, "refused")];
}

/// Counters of limits, by number: they never move, and there may always be more of them.
#[derive(Debug)]
struct LimitTable([OnceLock<Box<[LimitCounters]>>; 24]);

impl LimitTable {
    /// Counters in the first piece; each other one has as many as all before it.
    const FIRST: usize = 16;

    /// Those of a number; made when they are asked for first.
    #[inline]
    fn at(&self, number: usize) -> Option<&LimitCounters> {
        let (piece, offset) = Self::place(number);
        let size = Self::FIRST << piece.saturating_sub(1);
        let piece = self.0.get(piece)?;
        piece.get_or_init(|| (0..size).map(|_| LimitCounters::default()).collect()).get(offset)
    }

    /// Those of a number, if anything was counted near it.
    fn seen(&self, number: usize) -> Option<&LimitCounters> {
        let (piece, offset) = Self::place(number);
        self.0.get(piece)?.get()?.get(offset)
    }

    fn place(number: usize) -> (usize, usize) {
        match (number / Self::FIRST).checked_ilog2() {
            None => (0, number),
            Some(log) => {
                (usize::try_from(log).unwrap_or(usize::MAX).saturating_add(1), number - (Self::FIRST << log))
            }
        }
    }
}

/// Of one thread. Only that thread may count here.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerMetrics {
    limits: LimitTable,
    classes: [AtomicU64; CODE_CLASSES.len()],
    requests: Histogram,
    upstream: Histogram,
    decisions: Histogram,
    retries: AtomicU64,
    opened: AtomicU64,
    closed: AtomicU64,
    errors: [AtomicU64; ProtocolError::ALL.len()],
    panics: AtomicU64,
    pressures: [AtomicU64; PRESSURES],
    questions: [AtomicU64; Questioned::ALL.len()],
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct LimitCounters {
    outcomes: [AtomicU64; DecisionOutcome::ALL.len()],
    near: AtomicU64,
}

/// The sum over all threads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// One for each limit, in their order.
    pub limits: Vec<LimitTotals>,
    /// Requests answered, in the order of [`CODE_CLASSES`].
    pub classes: [u64; CODE_CLASSES.len()],
    /// How often the configuration was read again, in the order of [`Reloaded::ALL`].
    pub reloads: [u64; Reloaded::ALL.len()],
    /// How long they took, to the end of the response.
    pub requests: Distribution,
    /// How long the upstream took, to the head of its response.
    pub upstream: Distribution,
    /// Requests that were tried again.
    pub retries: u64,
    /// How long requests waited for what their limits say.
    pub decisions: Distribution,
    /// Clients' connections at the moment.
    pub connections: u64,
    /// In the order of [`ProtocolError::ALL`].
    pub errors: [u64; ProtocolError::ALL.len()],
    /// How often there was not enough.
    pub pressures: [u64; PRESSURES],
    /// Questions of Envoy's, in the order of [`Questioned::ALL`].
    pub questions: [u64; Questioned::ALL.len()],
    /// Panics caught: bugs.
    pub panics: u64,
    /// Background tasks that died and were started again.
    pub restarts: u64,
}

/// What one limit said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitTotals {
    /// Its name.
    pub name: Box<str>,
    /// In the order of [`DecisionOutcome::ALL`].
    pub outcomes: [u64; DecisionOutcome::ALL.len()],
    /// Decisions that left less than a fifth.
    pub near: u64,
}

impl LimitTotals {
    /// How often it said that.
    #[must_use]
    pub fn said(&self, outcome: DecisionOutcome) -> u64 {
        self.outcomes.get(outcome as usize).copied().unwrap_or_default()
    }
}

impl Totals {
    /// How often there was not enough of that.
    #[must_use]
    pub fn pressure(&self, of: Pressure) -> u64 {
        self.pressures.get(of as usize).copied().unwrap_or_default()
    }
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
        let worker = Arc::new(WorkerMetrics {
            limits: LimitTable(std::array::from_fn(|_| OnceLock::new())),
            classes: <[AtomicU64; CODE_CLASSES.len()]>::default(),
            requests: Histogram::default(),
            upstream: Histogram::default(),
            decisions: Histogram::default(),
            retries: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            errors: <[AtomicU64; ProtocolError::ALL.len()]>::default(),
            panics: AtomicU64::new(0),
            pressures: <[AtomicU64; PRESSURES]>::default(),
            questions: <[AtomicU64; Questioned::ALL.len()]>::default(),
        });
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&worker));
        worker
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

impl WorkerMetrics {
    /// The limit of that number said something.
    pub fn decision(&self, rule: usize, outcome: DecisionOutcome) {
        if let Some(count) = self.limits.at(rule).and_then(|limit| limit.outcomes.get(outcome as usize)) {
            add(count, 1);
        }
    }

    /// A question of Envoy's was answered so.
    pub fn question(&self, became: Questioned) {
        if let Some(count) = self.questions.get(became as usize) {
            add(count, 1);
        }
    }

    /// Of the limit of that number, more than four fifths are used.
    pub fn near_limit(&self, rule: usize) {
        if let Some(limit) = self.limits.at(rule) {
            add(&limit.near, 1);
        }
    }

    /// A request was answered.
    pub fn request(&self, status: StatusCode, elapsed: Duration) {
        // A status has three digits and 0 or 6 to 9 in front only if an upstream made it up.
        let class = usize::from(status.as_u16() / 100).clamp(1, CODE_CLASSES.len());
        if let Some(count) = self.classes.get(class - 1) {
            add(count, 1);
        }
        self.requests.observe(elapsed);
    }

    /// The upstream answered.
    pub fn upstream(&self, elapsed: Duration) {
        self.upstream.observe(elapsed);
    }

    /// A request is tried again.
    pub fn retry(&self) {
        add(&self.retries, 1);
    }

    /// A request's limits were decided at once.
    #[inline]
    pub fn decided_at_once(&self) {
        self.decisions.at_once();
    }

    /// A request waited that long for what its limits say.
    pub fn decided_after(&self, elapsed: Duration) {
        self.decisions.observe(elapsed);
    }

    /// A connection came.
    pub fn connection_opened(&self) {
        add(&self.opened, 1);
    }

    /// A connection went.
    pub fn connection_closed(&self) {
        add(&self.closed, 1);
    }

    /// A peer did something wrong.
    pub fn protocol_error(&self, kind: ProtocolError) {
        if let Some(count) = self.errors.get(kind as usize) {
            add(count, 1);
        }
    }

    /// There was not enough.
    pub fn pressure(&self, of: Pressure) {
        if let Some(count) = self.pressures.get(of as usize) {
            add(count, 1);
        }
    }

    /// A request panicked.
    pub fn panic(&self) {
        add(&self.panics, 1);
    }

    /// The limits are those of these numbers.
    fn add_to(&self, totals: &mut Totals, numbers: &[usize]) {
        for (total, number) in totals.limits.iter_mut().zip(numbers) {
            let Some(own) = self.limits.seen(*number) else { continue };
            sum(&mut total.outcomes, &own.outcomes);
            total.near += read(&own.near);
        }
        sum(&mut totals.classes, &self.classes);
        sum(&mut totals.errors, &self.errors);
        sum(&mut totals.pressures, &self.pressures);
        sum(&mut totals.questions, &self.questions);
        self.requests.add_to(&mut totals.requests);
        self.upstream.add_to(&mut totals.upstream);
        self.decisions.add_to(&mut totals.decisions);
        totals.retries += read(&self.retries);
        // In this order, so that a connection that comes and goes in between is not one too few.
        let closed = read(&self.closed);
        totals.connections += read(&self.opened).saturating_sub(closed);
        totals.panics += read(&self.panics);
    }
}

pub(super) fn sum<const N: usize>(totals: &mut [u64; N], own: &[AtomicU64; N]) {
    for (total, own) in totals.iter_mut().zip(own) {
        *total += read(own);
    }
}

/// Adds to a counter that only this thread writes: cheaper than an operation of read-modify-write.
#[inline]
pub(super) fn add(counter: &AtomicU64, units: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(units), Ordering::Relaxed);
}

#[inline]
pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
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
        assert_eq!(totals.errors, [0, 0, 4, 0]);
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
