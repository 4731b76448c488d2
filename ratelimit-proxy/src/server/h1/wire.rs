//! [`Wire`]: a client's connection as the requests on it see it, one after the other: what came, what is still to be
//! sent, and what is to come of the body of the request at hand. [`Body`] is that body.
//!
//! Everything here is polled by the connection's task and no other, so that nobody has to be woken by hand.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::io::AsyncWrite as _;

use super::head::{self, Head};
use crate::call::Call;
use crate::fault::Fault;
use crate::http1::fields::may_end;
use crate::http1::{Decoder, Inbox, Outbox};
use crate::server::io::watch;
use crate::socket::Stream;

/// Bytes of requests to come that are read while one is served, so as to notice when the client goes.
const AHEAD: usize = 64 * 1024;

/// A connection.
pub(crate) struct Wire {
    call: Rc<Call>,
    state: RefCell<State>,
}

struct State {
    io: Box<dyn Stream>,
    inbox: Inbox,
    outbox: Outbox,
    /// Bytes of the inbox that have been found to be less than a head.
    searched: usize,
    /// Room for a head's fields.
    spare: HeaderMap,
    /// What is to come of the body of the request at hand.
    decoder: Decoder,
    /// Whether that was ended by the client's closing its side.
    ended: bool,
    /// Whether the client waits to be asked for it.
    owes_continue: bool,
    /// Counts the requests, so that a body is not taken for the next one's.
    number: u64,
}

/// There is no more of a request's body, but that was not all.
#[derive(Debug)]
pub(crate) struct Broken;

/// What begins a request, if anything does.
pub(super) enum Begun {
    Request(Head),
    /// The connection ended, or should, between two requests.
    Nothing,
    /// It broke within one.
    BrokenOff,
    /// What came is none that can be served; `bodiless`: it began as HEAD does, so that no body may come back.
    Refused {
        fault: Fault,
        bodiless: bool,
    },
}

impl Wire {
    pub(super) fn new(io: Box<dyn Stream>, call: &Rc<Call>) -> Rc<Self> {
        let state = State {
            io,
            inbox: Inbox::new(),
            outbox: Outbox::default(),
            searched: 0,
            spare: HeaderMap::new(),
            decoder: Decoder::Done,
            ended: false,
            owes_continue: false,
            number: 0,
        };
        Rc::new(Self { call: Rc::clone(call), state: RefCell::new(state) })
    }

    /// The connection itself, without what came and was not looked at.
    pub(super) fn into_io(self) -> Box<dyn Stream> {
        self.state.into_inner().io
    }

    /// Waits for the head of the next request.
    pub(super) fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Begun> {
        loop {
            if let Some(begun) = self.state.borrow_mut().take_head() {
                return Poll::Ready(begun);
            }
            let between = self.state.borrow().inbox.is_empty();
            if !between {
                self.call.bytes_came();
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => {
                    return Poll::Ready(if between { Begun::Nothing } else { Begun::BrokenOff });
                }
                Poll::Pending if between && self.call.client.worker.is_draining() => {
                    return Poll::Ready(Begun::Nothing);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The body of a request whose head was taken.
    pub(super) fn body(self: &Rc<Self>, decoder: Decoder, expects_continue: bool) -> Body {
        let state = &mut *self.state.borrow_mut();
        state.decoder = decoder;
        state.owes_continue = expects_continue;
        state.number = state.number.wrapping_add(1);
        Body { wire: Rc::clone(self), number: state.number }
    }

    /// From now on everything that comes is the body of the request at hand, until the connection ends.
    fn open(&self, number: u64) {
        let state = &mut *self.state.borrow_mut();
        if state.number == number {
            state.decoder = Decoder::UntilClose;
        }
    }

    /// Whether all of the request's body has come and was taken.
    pub(super) fn is_body_taken(&self) -> bool {
        self.state.borrow().decoder.is_done()
    }

    /// Whether something came behind the request.
    pub(super) fn is_ahead(&self) -> bool {
        !self.state.borrow().inbox.is_empty()
    }

    /// Reads and throws away what is to come of the body; ready when that was all, or there will never be more.
    pub(super) fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<()> {
        let number = self.state.borrow().number;
        while let Some(Ok(_)) = ready!(self.poll_frame(number, cx)) {}
        Poll::Ready(())
    }

    /// Whether the client has gone while it waited. Half of a connection is none: who has closed its side has given
    /// up, as far as anybody can tell; but a tunnel may be half closed.
    pub(super) fn is_gone(&self, cx: &mut Context<'_>) -> bool {
        loop {
            let state = self.state.borrow();
            if !state.decoder.is_done() || state.inbox.len() >= AHEAD || state.ended {
                return false;
            }
            drop(state);
            match self.poll_read(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return true,
                Poll::Pending => return false,
            }
        }
    }

    /// Where a response is written to.
    pub(super) fn outbox<T>(&self, write: impl FnOnce(&mut Outbox) -> T) -> T {
        write(&mut self.state.borrow_mut().outbox)
    }

    /// Sends what there is; ready when that was all.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let State { io, outbox, .. } = &mut *self.state.borrow_mut();
        watch(&self.call, outbox.poll_send(io, cx))
    }

    /// A response is complete. Its fields' memory serves again.
    pub(super) fn rest(&self, fields: HeaderMap) {
        let state = &mut *self.state.borrow_mut();
        state.spare = fields;
        state.inbox.rest();
    }

    /// Gives back memory that the connection does not need while nothing comes.
    pub(super) fn shrink(&self) {
        let state = &mut *self.state.borrow_mut();
        state.spare = HeaderMap::new();
        if state.inbox.is_empty() {
            state.inbox = Inbox::new();
        }
        if state.outbox.is_empty() {
            state.outbox = Outbox::default();
        }
    }

    /// Says that nothing more will be sent, as far as that can be done at once.
    pub(super) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.state.borrow_mut().io).poll_shutdown(cx)
    }

    fn poll_read(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let State { io, inbox, .. } = &mut *self.state.borrow_mut();
        let read = inbox.poll_read(io, cx);
        if read.is_ready() {
            self.call.bytes_came();
        }
        read
    }

    fn poll_frame(&self, number: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            let taken = self.state.borrow_mut().take_frame(number);
            match taken {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.is_body_taken() => return Poll::Ready(None),
                Ok(None) => {}
                Err(broken) => return Poll::Ready(Some(Err(broken))),
            }
            // What the socket does not take goes in front of the response.
            if matches!(self.poll_send(cx), Poll::Ready(Err(_))) {
                return Poll::Ready(Some(Err(Broken)));
            }
            match ready!(self.poll_read(cx)) {
                Ok(1..) => {}
                Ok(0) if self.state.borrow_mut().end() => return Poll::Ready(None),
                Ok(0) | Err(_) => return Poll::Ready(Some(Err(Broken))),
            }
        }
    }
}

impl State {
    /// What begins with what came, if that is all there.
    fn take_head(&mut self) -> Option<Begun> {
        // Parsed anew only where there may be an end: bytes that trickle in would cost their square otherwise.
        let bytes = &mut self.inbox.bytes;
        let worth = self.searched == 0 || may_end(bytes, self.searched) || bytes.len() > head::MAX_HEAD;
        if bytes.is_empty() || !worth {
            self.searched = self.inbox.len();
            return None;
        }
        let bodiless = bytes.trim_ascii_start().starts_with(b"HEAD ");
        let taken = head::take(bytes, &mut self.spare);
        self.searched = if matches!(taken, Ok(None)) { self.inbox.len() } else { 0 };
        match taken {
            Ok(head) => head.map(Begun::Request),
            Err(fault) => Some(Begun::Refused { fault, bodiless }),
        }
    }

    /// The client has closed its side. Returns whether the body ends so, as a tunnel's does.
    fn end(&mut self) -> bool {
        self.ended = self.decoder.end();
        self.ended
    }

    /// The next piece of the body, if it came. Asks for it where that is waited for.
    fn take_frame(&mut self, number: u64) -> Result<Option<Frame<Bytes>>, Broken> {
        if number != self.number {
            return Err(Broken);
        }
        if self.owes_continue {
            self.owes_continue = false;
            if self.inbox.is_empty() {
                self.outbox.text().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
        }
        self.decoder.take(&mut self.inbox.bytes).map_err(|_| Broken)
    }
}

/// A request's body.
pub(crate) struct Body {
    wire: Rc<Wire>,
    number: u64,
}

impl Body {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.wire.poll_frame(self.number, cx)
    }

    /// The request has become a tunnel: what comes from now on is passed on as it is.
    pub(crate) fn open(&self) {
        self.wire.open(self.number);
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.wire.is_body_taken()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.wire.state.borrow().decoder.size_hint()
    }
}
