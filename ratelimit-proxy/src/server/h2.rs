//! HTTP/2 with a client: hyper with every limit set, a task for each stream, the deadlines, and the end.
//!
//! One timer serves a connection and all its streams. Each stream notes what it waits for in its own
//! [`Call`](crate::call::Call); the connection's task sleeps until the earliest of them and wakes the streams whose
//! time is over, which know what that means. A stream that waits for nobody else waits for its client to read.
//!
//! What floods can cost (RFC 9113 §10.5): `h2` bounds what is queued for a client that does not read, frames that come
//! in vain and streams reset before they were served. Streams that are reset again and again after that were decided
//! about and charged; [`Streams::is_abused`] ends the connection.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use slab::Slab;
use tokio::time::{Instant, Sleep};

use super::body::ClientBody;
use super::connection::answer;
use super::io::ClientIo;
use super::websocket::Handshake;
use crate::call::Call;
use crate::deadlines::Wait;
use crate::socket::{Socket, Stream};
use crate::state::Client;
use crate::telemetry::metrics::ProtocolError;

/// Requests under way on a connection at most.
const STREAMS: u32 = 100;
/// Bytes of a request's fields, each counted 32 longer than it is: 1000 tiny ones are too many.
const MAX_HEADERS: u32 = 32 * 1024;
/// Bytes of a response that are taken in before the client has room for them, for each stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes that a client may send before the upstream has taken them: on a stream, and on all of a connection.
const WINDOW: (u32, u32) = (256 * 1024, 1024 * 1024);
/// After how much silence a client is asked whether it is there, and how long it may take to say so.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// From how many streams on it matters how many of them the client took back.
const MANY: usize = 500;

/// Serves streams until the connection ends.
pub(super) async fn serve<S: Stream>(client: &Rc<Client>, stream: S) {
    let connection_call = Call::stream(client);
    let streams = Rc::new(Streams::new(client));
    let io = ClientIo { socket: Socket::new(stream), call: Rc::clone(&connection_call) };
    let service = service_fn(|request: Request<Incoming>| {
        let (mut head, body) = request.into_parts();
        let call = streams.begin();
        let (handshake, body) = match Handshake::begin(&mut head) {
            Some((handshake, tunnel)) => {
                let streams = Rc::clone(&streams);
                (Some((handshake, streams, Rc::clone(&call))), ClientBody::WebSocket(tunnel))
            }
            None => (None, ClientBody::Http2(body)),
        };
        let answer = answer(call, Box::new(head), body);
        async move {
            let answer = *answer.await;
            let Some((handshake, streams, call)) = handshake else { return Ok::<_, Infallible>(answer) };
            let (answer, carried) = Handshake::answered(answer);
            if let Some(carried) = carried {
                tokio::task::spawn_local(async move {
                    run(&streams, call, handshake.carry(carried)).await;
                });
            }
            Ok(answer)
        }
    });
    let mut builder = Builder::new(Tasks(Rc::clone(&streams)));
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .max_concurrent_streams(STREAMS)
        .enable_connect_protocol()
        .max_header_list_size(MAX_HEADERS)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(WINDOW.0)
        .initial_connection_window_size(WINDOW.1);
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut life = Life::new(&connection_call, &streams);
    poll_fn(|cx| {
        life.call.deadlines.tick();
        if !life.registered {
            life.registered = true;
            client.register(cx.waker());
            streams.connection.replace(Some(cx.waker().clone()));
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                if let Err(error) = ended {
                    client.worker.metrics.protocol_error(kind(&error));
                }
                return Poll::Ready(());
            }
            match life.step(cx) {
                Step::Wait => return Poll::Pending,
                Step::Again => {}
                Step::Close => connection.as_mut().graceful_shutdown(),
                Step::Cut => {
                    client.worker.metrics.protocol_error(ProtocolError::Timeout);
                    return Poll::Ready(());
                }
            }
        }
    })
    .await;
}

/// hyper parses heads and bodies, so what it complains about is one of them.
fn kind(error: &hyper::Error) -> ProtocolError {
    if error.is_parse() {
        ProtocolError::Head
    } else if error.is_timeout() {
        ProtocolError::Timeout
    } else {
        ProtocolError::Other
    }
}

/// When a connection ends.
struct Life<'c> {
    call: &'c Call,
    streams: &'c Streams,
    timer: Pin<Box<Sleep>>,
    registered: bool,
    /// Until when it takes new streams.
    until: Option<Instant>,
    /// Whether the client was told that it takes no more.
    closing: bool,
}

/// What is to be done next.
enum Step {
    /// Nothing, until somebody is woken.
    Wait,
    /// Look again.
    Again,
    /// Tell the client to open no more streams.
    Close,
    /// End it.
    Cut,
}

impl<'c> Life<'c> {
    fn new(call: &'c Call, streams: &'c Streams) -> Self {
        let deadlines = &call.deadlines;
        deadlines.arm(Wait::Head, call.timeouts().head);
        // `h2` counts some things over a connection's whole life, and balancers in front of us should get to see servers
        // that are new. Not all connections at once.
        let age = call.timeouts().age;
        let until = deadlines.now().checked_add(age.saturating_add(age.mul_f64(fastrand::f64() / 10.0)));
        let timer = Box::pin(tokio::time::sleep(call.timeouts().head));
        Self { call, streams, timer, registered: false, until, closing: false }
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        let (call, streams) = (self.call, self.streams);
        let deadlines = &call.deadlines;
        let now = deadlines.now();
        let served = streams.served.get() > 0;
        if !streams.calls.borrow().is_empty() {
            deadlines.disarm(Wait::Head);
        } else if served {
            deadlines.arm_once(Wait::Head, call.timeouts().idle);
        }
        if deadlines.expired(Wait::Write) {
            return Step::Cut;
        }
        // Nobody says anything any more; or says hello and nothing else.
        let silent = deadlines.expired(Wait::Head);
        if silent && (self.closing || !served) {
            return Step::Cut;
        }
        let old = self.until.is_some_and(|until| until <= now);
        let ends = silent || old || streams.is_abused() || call.client.worker.is_draining();
        if ends && !self.closing {
            self.closing = true;
            if silent {
                deadlines.arm(Wait::Head, call.timeouts().write);
            }
            return Step::Close;
        }
        let until = self.until.filter(|_| !self.closing);
        let earliest = [deadlines.earliest(), streams.wake_late(now), until].into_iter().flatten().min();
        streams.rings.set(earliest);
        let Some(earliest) = earliest else { return Step::Wait };
        // It may ring too early, which costs one wake-up; setting it anew for each stream would cost more.
        if earliest < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(earliest);
        }
        streams.rings.set(Some(self.timer.deadline()));
        if self.timer.as_mut().poll(cx).is_pending() {
            return Step::Wait;
        }
        deadlines.tick();
        Step::Again
    }
}

/// The streams of a connection.
struct Streams {
    client: Rc<Client>,
    calls: RefCell<Slab<(Rc<Call>, Waker)>>,
    /// The one that was begun last, until its task is.
    begun: Cell<Option<Rc<Call>>>,
    /// The connection's task.
    connection: RefCell<Option<Waker>>,
    /// When its timer rings.
    rings: Cell<Option<Instant>>,
    served: Cell<usize>,
    /// Those that the client took back before they were answered.
    cancelled: Cell<usize>,
}

impl Streams {
    fn new(client: &Rc<Client>) -> Self {
        Self {
            client: Rc::clone(client),
            calls: RefCell::default(),
            begun: Cell::default(),
            connection: RefCell::default(),
            rings: Cell::default(),
            served: Cell::new(0),
            cancelled: Cell::new(0),
        }
    }

    /// A stream begins.
    fn begin(&self) -> Rc<Call> {
        let call = Call::stream(&self.client);
        self.begun.set(Some(Rc::clone(&call)));
        call
    }

    /// Whether the client takes back most of what it asks for.
    fn is_abused(&self) -> bool {
        self.served.get() >= MANY && self.cancelled.get() > self.served.get() / 2
    }

    /// Wakes the streams whose time is over. Says when the next one's is.
    fn wake_late(&self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for (_, (call, waker)) in self.calls.borrow().iter() {
            let Some(deadline) = call.deadlines.earliest() else { continue };
            if deadline <= now {
                waker.wake_by_ref();
            } else {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
            }
        }
        next
    }

    /// The connection's task has to look at things again.
    fn wake(&self) {
        if let Some(waker) = &*self.connection.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// What hyper runs streams with.
#[derive(Clone)]
struct Tasks(Rc<Streams>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Tasks {
    fn execute(&self, stream: F) {
        // hyper asks for a response and starts the stream's task in one go.
        let call = self.0.begun.take();
        let streams = Rc::clone(&self.0);
        tokio::task::spawn_local(async move {
            match call {
                Some(call) => run(&streams, call, stream).await,
                None => stream.await,
            }
        });
    }
}

/// Runs a stream to its end, or until its client has taken too long to read.
async fn run(streams: &Streams, call: Rc<Call>, stream: impl Future<Output = ()>) {
    let mut entry = Entry { streams, call, place: None };
    let mut stream = pin!(stream);
    poll_fn(|cx| {
        let deadlines = &entry.call.deadlines;
        deadlines.tick();
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if deadlines.any_expired().is_some() {
            // Dropping it resets the stream.
            streams.client.worker.metrics.protocol_error(ProtocolError::Timeout);
            return Poll::Ready(());
        }
        // It was woken, so something has happened.
        deadlines.disarm(Wait::Write);
        // Once it was answered, whatever else is waited for, the upstream's next word is asked for as long as there is
        // room for it: where it is not, the client has to read.
        let is_full = entry.call.is_answered() && !deadlines.is_armed(Wait::Upstream);
        if is_full || deadlines.earliest().is_none() {
            deadlines.arm(Wait::Write, entry.call.timeouts().write);
        }
        entry.wait(cx.waker());
        Poll::Pending
    })
    .await;
}

/// A stream's place among those of its connection.
struct Entry<'s> {
    streams: &'s Streams,
    call: Rc<Call>,
    place: Option<usize>,
}

impl Entry<'_> {
    fn wait(&mut self, waker: &Waker) {
        let streams = self.streams;
        if self.place.is_none() {
            let entry = (Rc::clone(&self.call), waker.clone());
            self.place = Some(streams.calls.borrow_mut().insert(entry));
        }
        // The timer may be late for it.
        let deadline = self.call.deadlines.earliest();
        if deadline.is_some_and(|deadline| streams.rings.get().is_none_or(|rings| deadline < rings)) {
            streams.rings.set(deadline);
            streams.wake();
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let streams = self.streams;
        streams.served.set(streams.served.get().saturating_add(1));
        if !self.call.is_answered() {
            streams.cancelled.set(streams.cancelled.get().saturating_add(1));
        }
        let mut calls = streams.calls.borrow_mut();
        if let Some(place) = self.place {
            calls.try_remove(place);
        }
        if calls.is_empty() {
            drop(calls);
            streams.wake();
        }
    }
}
