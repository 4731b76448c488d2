//! [`Call`]: one request under way and its response, and whom they wait for.
//!
//! A connection of HTTP/1.1 serves one after the other, so it has one call, which is used again for each request and
//! notes what the connection itself waits for as well. On HTTP/2 each stream has one.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http_body::Body as _;

use crate::deadlines::{Deadlines, Wait};
use crate::rules::Adopted;
use crate::server::ClientBody;
use crate::server::linger::{LEFTOVER, LEFTOVER_TIME, discard};
use crate::state::{Client, Timeouts};

/// A request under way.
pub(crate) struct Call {
    pub(crate) client: Rc<Client>,
    pub(crate) deadlines: Deadlines,
    timeouts: Cell<Timeouts>,
    /// Whether there is a body that nobody wants, worth being read so that the connection can go on.
    aside: Cell<bool>,
    phase: Cell<Phase>,
    answered: Cell<bool>,
}

/// Where the connection is between two requests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No byte of the next request has come.
    Between,
    /// Some have.
    Head,
    /// A request is under way.
    Busy,
    /// The call is a stream's: its connection looks after itself.
    Stream,
}

impl Call {
    /// For a connection that serves one request after the other.
    pub(crate) fn new(client: &Rc<Client>) -> Rc<Self> {
        let call = Self::within(client, Phase::Between);
        call.deadlines.arm(Wait::Head, call.timeouts().head);
        Rc::new(call)
    }

    /// For one stream of several.
    pub(crate) fn stream(client: &Rc<Client>) -> Rc<Self> {
        Rc::new(Self::within(client, Phase::Stream))
    }

    fn within(client: &Rc<Client>, phase: Phase) -> Self {
        Self {
            client: Rc::clone(client),
            deadlines: Deadlines::new(),
            timeouts: Cell::new(client.worker.rules().timeouts),
            aside: Cell::new(false),
            phase: Cell::new(phase),
            answered: Cell::new(false),
        }
    }

    /// How long to wait for whom, as it was when the request began.
    #[inline]
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.timeouts.get()
    }

    /// A request begins; it is served by these rules to its end.
    #[inline]
    pub(crate) fn begin(&self) -> Adopted {
        let rules = self.client.worker.rules();
        self.timeouts.set(rules.timeouts);
        self.aside.set(false);
        rules
    }

    /// How long to wait for the upstream, where it is not as long as for others.
    #[inline]
    pub(crate) fn wait_for(&self, (connect, response): (Option<Duration>, Option<Duration>)) {
        if connect.is_some() || response.is_some() {
            let mut timeouts = self.timeouts.get();
            timeouts.connect = connect.unwrap_or(timeouts.connect);
            timeouts.response = response.unwrap_or(timeouts.response);
            self.timeouts.set(timeouts);
        }
    }

    /// How long either side may be silent, where silence is nothing unusual.
    pub(crate) fn may_be_silent(&self, length: Duration) {
        let mut timeouts = self.timeouts.get();
        (timeouts.body, timeouts.response) = (length, length);
        self.timeouts.set(timeouts);
    }

    /// Bytes came in. If they are the first of a request, its head must be complete in time, however slowly
    /// the others follow.
    pub(crate) fn bytes_came(&self) {
        if self.phase.get() == Phase::Between {
            self.phase.set(Phase::Head);
            self.deadlines.arm(Wait::Head, self.timeouts().head);
        }
    }

    /// Whether no byte of a next request has come.
    pub(crate) fn is_between(&self) -> bool {
        self.phase.get() == Phase::Between
    }

    /// A request is complete up to its body.
    pub(crate) fn request_began(&self) {
        if self.phase.get() != Phase::Stream {
            self.phase.set(Phase::Busy);
            self.deadlines.disarm(Wait::Head);
        }
    }

    /// There is an answer.
    pub(crate) fn answered(&self) {
        self.answered.set(true);
    }

    /// Whether there was one.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered.get()
    }

    /// Its response has been handed over in full, or never will be.
    pub(crate) fn request_ended(&self) {
        self.deadlines.disarm(Wait::Upstream);
        self.deadlines.disarm(Wait::Body);
        if self.phase.get() != Phase::Stream {
            self.phase.set(Phase::Between);
            self.deadlines.arm(Wait::Head, self.timeouts().idle);
        }
    }

    /// Takes the body of a request that will be answered without it. Returns whether the connection has to be
    /// closed after the answer, because reading the body to its end would take too long or would need a
    /// `100 Continue` that was never meant: a client that expects one may send the body or not, so nobody could tell
    /// what its next bytes are.
    pub(crate) fn set_aside(&self, body: ClientBody, expects_continue: bool) -> bool {
        if let ClientBody::Http2(stream) = body {
            // A stream that is reset now would be forgotten soon, and what its client still sends held against the
            // connection.
            tokio::task::spawn_local(discard(stream));
            return false;
        }
        if body.is_end_stream() {
            return false;
        }
        let short = body.size_hint().exact().is_some_and(|length| length <= LEFTOVER) && !expects_continue;
        if short {
            self.deadlines.arm(Wait::Leftover, LEFTOVER_TIME);
            self.aside.set(true);
        }
        !short
    }

    /// Whether the rest of the body is to be read for the sake of the connection.
    pub(crate) fn is_aside(&self) -> bool {
        self.aside.get()
    }
}
