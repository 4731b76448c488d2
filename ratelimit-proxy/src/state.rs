//! What requests share: [`Shared`] by all threads, [`Worker`] by the connections of one thread, [`Client`] by
//! the requests of one connection. Nothing but [`Shared`] crosses threads. What is one request's is a
//! [`Call`](crate::call::Call).

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;
use ratelimit_core::fields::Told;
use ratelimit_core::time::Clock as _;
use ratelimit_core::{KeyBuf, Nanos, ResetFormat, SystemClock};
use slab::Slab;
use tokio::time::Instant;

use crate::config::Config;
use crate::doubts::{Doubts, Surveyor};
use crate::identity::token::{JwtConfig, TokenVerifier};
use crate::overload::Memory;
use crate::rules::{Adopted, Current, Rules};
use crate::server::crowd::Crowd;
use crate::server::descriptors::Shortage;
use crate::server::tls::{Certificate, Session};
use crate::store::AnyStore;
use crate::telemetry::metrics::{Metrics, Pressure, WorkerMetrics};
use crate::telemetry::otlp::Outbox;
use crate::upstream;

/// How long to wait for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the head of a request, from its first byte; for that byte on a new connection.
    pub head: Duration,
    /// For the next request on a connection.
    pub idle: Duration,
    /// For the next piece of a request's body.
    pub body: Duration,
    /// For the client to read some of what was written to it.
    pub write: Duration,
    /// For a connection to the upstream.
    pub connect: Duration,
    /// For the head of the upstream's response once the request was sent, then for each piece of its body.
    pub response: Duration,
    /// For a byte in either direction of a tunnel, where `response` is not longer. Clients that wait for longer send pings.
    pub tunnel: Duration,
    /// Until a connection of HTTP/2 takes no more requests, up to a tenth more.
    pub age: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body: Duration::from_secs(30),
            write: Duration::from_secs(30),
            connect: Duration::from_secs(1),
            response: Duration::from_secs(30),
            tunnel: Duration::from_secs(300),
            age: Duration::from_secs(3600),
        }
    }
}

/// What all threads share.
pub struct Shared {
    /// What a reload can change.
    pub(crate) rules: Current,
    /// Where their counters live.
    pub store: AnyStore,
    /// What the operator is told.
    pub metrics: Arc<Metrics>,
    /// What is told to a collector of OTLP, if there is one.
    pub(crate) outbox: Option<Arc<Outbox>>,
    /// What is likely wrong with the configuration.
    pub(crate) doubts: Doubts,
    /// Most connections at a time, over all threads.
    pub max_connections: usize,
    /// Who may have how many of them.
    pub(crate) crowd: Crowd,
    /// Whether there are file descriptors for more connections.
    pub(crate) shortage: Shortage,
    /// Whether there is memory for more requests.
    pub memory: Memory,
    /// The wall clock, for fields that name a point in time.
    pub clock: SystemClock,
    /// Whether connections should end as soon as they can. Not told thread by thread: once the proxy has said that it
    /// drains, no answer of any thread may promise another request.
    draining: AtomicBool,
}

impl Shared {
    /// What a configuration comes to, with counters in that store. Tokens are verified once [`Shared::verify_tokens`]
    /// was called: that needs a thread.
    #[must_use]
    pub fn new(config: &Config, store: AnyStore) -> Self {
        let metrics = Metrics::new(&[]);
        Self {
            rules: Current::new(Rules::first(config, &metrics)),
            metrics,
            outbox: config.otlp.is_some().then(Outbox::new),
            doubts: Doubts::default(),
            store,
            max_connections: config.server.max_connections,
            crowd: Crowd::new(&config.server),
            shortage: Shortage::default(),
            memory: Memory::new(config.server.max_memory),
            clock: SystemClock::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// Verifies tokens from now on.
    ///
    /// # Errors
    /// When a source on this machine has no keys, or there is no thread to be had.
    pub fn verify_tokens(&self, config: JwtConfig) -> io::Result<()> {
        self.rules.verify_by(TokenVerifier::start(config, &self.metrics)?);
        Ok(())
    }

    /// Who verifies tokens now; `None` if nobody does.
    #[must_use]
    pub fn tokens(&self) -> Option<Arc<TokenVerifier>> {
        self.rules.load().tokens.clone()
    }

    /// Checks servers of upstreams, on a thread of its own, until nobody else holds the value.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn watch_upstreams(self: &Arc<Self>) -> io::Result<()> {
        upstream::watch(self)
    }

    /// From now on connections end as soon as they can. Those that are idle have to be woken: [`Worker::wake_all`].
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// The time since the Unix epoch, read only where some field shows it.
    pub(crate) fn utc(&self, rules: &Rules) -> Nanos {
        match rules.answers.fields.reset {
            ResetFormat::Epoch => self.clock.utc(),
            _ => Nanos::ZERO,
        }
    }
}

/// What the connections of one thread share.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Arc<WorkerMetrics>,
    pub(crate) surveyor: Surveyor,
    rules: RefCell<Adopted>,
    date: RefCell<DateLine>,
    connections: RefCell<Slab<Option<Waker>>>,
    /// Connections that ended while the proxy drained.
    finished: Cell<usize>,
    all_closed: tokio::sync::Notify,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>) -> Rc<Self> {
        let metrics = shared.metrics.worker();
        Rc::new(Self {
            metrics,
            rules: RefCell::new(Adopted::new(shared.rules.load(), None)),
            date: RefCell::new(DateLine::at(Instant::now(), shared.clock.utc())),
            shared,
            surveyor: Surveyor::new(),
            connections: RefCell::default(),
            finished: Cell::new(0),
            all_closed: tokio::sync::Notify::new(),
        })
    }

    /// The rules for what begins now. What began before goes on under those it began with.
    #[inline]
    pub(crate) fn rules(&self) -> Adopted {
        if self.rules.borrow().generation() != self.shared.rules.generation() {
            self.adopt();
        }
        Adopted::clone(&self.rules.borrow())
    }

    #[cold]
    fn adopt(&self) {
        let new = Adopted::new(self.shared.rules.load(), Some(&self.rules.borrow()));
        self.rules.replace(new);
    }

    /// Drops idle connections to upstreams: those that nobody has asked for in a while, or all of them.
    pub(crate) fn sweep(&self, all: bool) {
        let rules = self.rules.borrow();
        if all { rules.local().clear() } else { rules.local().sweep(Instant::now()) }
    }

    /// Whether a new request has to be refused for want of memory; if so, what is idle is given up.
    pub(crate) fn sheds(&self) -> bool {
        let short = self.shared.memory.is_short();
        if short {
            self.sweep(true);
            self.metrics.pressure(Pressure::Shed);
        }
        short
    }

    /// Writes the field that says what time it is.
    pub(crate) fn write_date(&self, now: Instant, out: &mut Vec<u8>) {
        let mut date = self.date.borrow_mut();
        if date.until <= now {
            *date = DateLine::at(now, self.shared.clock.utc());
        }
        out.extend_from_slice(date.line.as_bytes());
    }

    /// Whether connections should end as soon as they can.
    pub(crate) fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Acquire)
    }

    /// Lets all connections see that something has changed.
    pub(crate) fn wake_all(&self) {
        for (_, waker) in self.connections.borrow().iter() {
            if let Some(waker) = waker {
                waker.wake_by_ref();
            }
        }
    }

    /// How many connections there are.
    pub(crate) fn open(&self) -> usize {
        self.connections.borrow().len()
    }

    /// How many have ended since the proxy began to drain.
    pub(crate) fn finished(&self) -> usize {
        self.finished.get()
    }

    /// Waits until there are none.
    pub(crate) async fn closed(&self) {
        loop {
            let closed = self.all_closed.notified();
            if self.open() == 0 {
                return;
            }
            closed.await;
        }
    }
}

/// The field `Date`, which is the same for a second.
struct DateLine {
    line: String,
    until: Instant,
}

impl DateLine {
    fn at(now: Instant, utc: Nanos) -> Self {
        let utc = Duration::from_nanos(utc.get());
        let left = Duration::from_secs(1).saturating_sub(Duration::from_nanos(utc.subsec_nanos().into()));
        let date = httpdate::fmt_http_date(UNIX_EPOCH + utc);
        Self { line: format!("date: {date}\r\n"), until: now.checked_add(left).unwrap_or(now) }
    }
}

/// A place in the worker's list of connections.
pub(crate) struct Place {
    worker: Rc<Worker>,
    number: usize,
}

impl Place {
    pub(crate) fn new(worker: &Rc<Worker>) -> Self {
        let number = worker.connections.borrow_mut().insert(None);
        worker.metrics.connection_opened();
        Self { worker: Rc::clone(worker), number }
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Whom to wake when the worker drains.
    pub(crate) fn register(&self, waker: &Waker) {
        if let Some(place) = self.worker.connections.borrow_mut().get_mut(self.number) {
            *place = Some(waker.clone());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self.worker.connections.borrow_mut();
        connections.try_remove(self.number);
        self.worker.metrics.connection_closed();
        if self.worker.is_draining() {
            self.worker.finished.set(self.worker.finished.get() + 1);
        }
        if connections.is_empty() {
            self.worker.all_closed.notify_waiters();
        }
    }
}

/// What the requests of one connection share.
pub(crate) struct Client {
    pub(crate) worker: Rc<Worker>,
    /// The other end of the socket, an IPv4 address inside IPv6 as the IPv4 address.
    pub(crate) peer: IpAddr,
    /// What the handshake said, where there was one.
    pub(crate) session: Option<Session>,
    /// Reused from request to request.
    pub(crate) keys: Cell<KeyBuf>,
    /// Field values that are the same for all requests of the connection, nearly always.
    pub(crate) forwarding: RefCell<Forwarding>,
    pub(crate) told: RefCell<Told>,
    place: Place,
}

/// What is told to the upstream about where a request came from, ready to be sent: made for one host, and the same
/// for nearly all requests of a connection.
#[derive(Default)]
pub(crate) struct Forwarding {
    pub(crate) host: Option<HeaderValue>,
    /// Whole lines.
    pub(crate) lines: Vec<u8>,
}

impl Client {
    /// On a connection that was opened.
    pub(crate) fn new(place: Place, peer: IpAddr, session: Option<Session>) -> Rc<Self> {
        Rc::new(Self {
            worker: Rc::clone(&place.worker),
            peer: peer.to_canonical(),
            session,
            keys: Cell::default(),
            forwarding: RefCell::default(),
            told: RefCell::default(),
            place,
        })
    }

    /// Whom to wake when the worker drains.
    pub(crate) fn register(&self, waker: &Waker) {
        self.place.register(waker);
    }

    /// The protocol that the client used, as URLs name it.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.session.is_some() { "https" } else { "http" }
    }

    /// The client's verified certificate.
    pub(crate) fn certificate(&self) -> Option<&Certificate> {
        self.session.as_ref()?.certificate.as_ref()
    }
}
