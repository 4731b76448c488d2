//! [`Tail`]: what has to be done when a request is over, however it ends: permits given back, the request
//! counted, the connection told. It happens exactly once, when the response's body has been handed over in
//! full, when it breaks, or when everything is dropped because the client went away.

use std::rc::Rc;

use http::StatusCode;
use tokio::time::Instant;

use crate::decide::Permit;
use crate::state::Client;

/// The end of a request, wherever it comes.
pub(crate) struct Tail {
    client: Rc<Client>,
    started: Instant,
    status: StatusCode,
    permits: Vec<Permit>,
}

impl Tail {
    /// For a request that begins now.
    pub(crate) fn new(client: &Rc<Client>) -> Self {
        client.request_began();
        Self {
            client: Rc::clone(client),
            started: client.deadlines.now(),
            // What is counted when the client is gone before there is an answer: nginx's 499, a client's fault.
            status: StatusCode::BAD_REQUEST,
            permits: Vec::new(),
        }
    }

    /// Permits to be given back at the end.
    pub(crate) fn hold(&mut self, permits: Vec<Permit>) {
        self.permits = permits;
    }

    /// The status to count.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = status;
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let worker = &self.client.worker;
        for permit in self.permits.drain(..) {
            permit.release(&worker.shared.store);
        }
        let elapsed = self.client.deadlines.now().saturating_duration_since(self.started);
        worker.metrics.request(self.status, elapsed);
        self.client.request_ended();
    }
}
