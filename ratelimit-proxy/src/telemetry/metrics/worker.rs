//! What one thread counts.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::StatusCode;

use super::limits::LimitTable;
use super::totals::Totals;
use super::words::{CODE_CLASSES, DecisionOutcome, PRESSURES, Pressure, ProtocolError, Questioned};
use super::{add, read, sum};
use crate::telemetry::histogram::Histogram;
use crate::telemetry::top::Top;

/// Of one thread. Only that thread may count here.
#[derive(Debug, Default)]
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
    /// Which keys are denied, and near to their limits.
    pub(crate) top: Top,
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
    pub(super) fn add_to(&self, totals: &mut Totals, numbers: &[usize]) {
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
