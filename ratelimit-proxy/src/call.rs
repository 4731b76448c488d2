//! [`Call`]: one request under way and its response, and whom they wait for.
//!
//! A connection of HTTP/1.1 serves one after the other, so it has one call, which is used again for each request and
//! notes what the connection itself waits for as well. On HTTP/2 each stream has one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;

use crate::deadlines::{Deadlines, Wait};
use crate::rules::Adopted;
use crate::server::linger::Leftover;
use crate::state::{Client, Timeouts};

/// A request under way.
pub(crate) struct Call {
    pub(crate) client: Rc<Client>,
    pub(crate) deadlines: Deadlines,
    /// A body that nobody wants, being read so that the connection can go on.
    pub(crate) leftover: RefCell<Option<Leftover>>,
    timeouts: Cell<Timeouts>,
    unread: Cell<bool>,
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
            leftover: RefCell::default(),
            timeouts: Cell::new(client.worker.rules().timeouts),
            unread: Cell::new(false),
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
    /// `100 Continue` that was never meant.
    pub(crate) fn set_aside(&self, body: Incoming, expects_continue: bool) -> bool {
        if self.phase.get() == Phase::Stream {
            // A stream that is reset now would be forgotten soon, and what its client still sends held against the
            // connection.
            tokio::task::spawn_local(Leftover::of_stream(body).discard());
            return false;
        }
        match Leftover::new(body, expects_continue) {
            Ok(leftover) => {
                self.deadlines.arm(Wait::Leftover, Leftover::TIME);
                self.leftover.replace(Some(leftover));
                false
            }
            Err(_too_much) => {
                self.unread.set(true);
                true
            }
        }
    }

    /// A body was given up while the client may still be sending it.
    pub(crate) fn left_unread(&self) {
        self.unread.set(true);
    }

    /// Whether closing the socket now would make the kernel throw away what the client has yet to read.
    pub(crate) fn has_unread(&self) -> bool {
        self.unread.get()
    }
}
