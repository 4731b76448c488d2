//! [`Tail`]: what has to be done when a request is over, however it ends: permits given back, the request
//! counted, the connection told. It happens exactly once, when the response's body has been handed over in
//! full, when it breaks, or when everything is dropped because the client went away.

use std::rc::Rc;

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use crate::call::Call;
use crate::decide::Hold;
use crate::policy::Ending;
use crate::telemetry::trace::Trace;

/// The end of a request, wherever it comes.
pub(crate) struct Tail {
    call: Rc<Call>,
    started: Instant,
    status: StatusCode,
    holds: Vec<Hold>,
    ending: Ending,
    pub(super) trace: Trace,
}

impl Tail {
    /// For a request that begins now.
    pub(crate) fn new(call: &Rc<Call>) -> Self {
        call.request_began();
        Self {
            call: Rc::clone(call),
            started: call.deadlines.now(),
            // What is counted when the client is gone before there is an answer: nginx's 499, a client's fault.
            status: StatusCode::BAD_REQUEST,
            holds: Vec::new(),
            ending: Ending::default(),
            trace: Trace::default(),
        }
    }

    /// What is to be given back or settled at the end.
    pub(crate) fn hold(&mut self, holds: Vec<Hold>) {
        self.holds = holds;
    }

    /// What the upstream's head, or its trailers, say about how the request ends.
    pub(crate) fn hear(&mut self, headers: &HeaderMap) {
        if self.holds.is_empty() {
            return;
        }
        let status = headers.get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
        self.ending.grpc = status.or(self.ending.grpc);
        self.holds.iter_mut().for_each(|hold| hold.hear(headers));
    }

    /// All of the response was handed over.
    pub(crate) fn complete(&mut self) {
        self.ending.complete = true;
    }

    /// The status to count.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.call.answered();
        self.status = status;
        self.ending.status = Some(status.as_u16());
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let worker = &self.call.client.worker;
        for hold in self.holds.drain(..) {
            hold.settle(&self.ending, &worker.shared.store);
        }
        let elapsed = self.call.deadlines.now().saturating_duration_since(self.started);
        worker.metrics.request(self.status, elapsed);
        self.trace.end(self.status);
        self.call.request_ended();
    }
}
