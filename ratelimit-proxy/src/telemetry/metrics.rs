//! Stand-in until the metrics land: the same calls, hardly any memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;

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

/// All of it.
#[derive(Debug, Default)]
pub struct Metrics {
    panics: AtomicU64,
}

impl Metrics {
    /// For these limits.
    #[must_use]
    pub fn new(_limits: &[&str]) -> Arc<Self> {
        Arc::default()
    }

    /// For one more thread.
    #[must_use]
    pub fn worker(self: &Arc<Self>) -> Arc<WorkerMetrics> {
        Arc::new(WorkerMetrics(Arc::clone(self)))
    }
}

/// Of one thread.
#[derive(Debug)]
pub struct WorkerMetrics(Arc<Metrics>);

impl WorkerMetrics {
    /// A limit said something.
    pub fn decision(&self, _rule: usize, _outcome: DecisionOutcome) {}
    /// More than four fifths are used.
    pub fn near_limit(&self, _rule: usize) {}
    /// A request was answered.
    pub fn request(&self, _status: StatusCode, _elapsed: Duration) {}
    /// The upstream answered.
    pub fn upstream(&self, _elapsed: Duration) {}
    /// A connection came.
    pub fn connection_opened(&self) {}
    /// A connection went.
    pub fn connection_closed(&self) {}
    /// A peer did something wrong.
    pub fn protocol_error(&self, _kind: ProtocolError) {}
    /// A request panicked.
    pub fn panic(&self) {
        self.0.panics.fetch_add(1, Ordering::Relaxed);
    }
}
