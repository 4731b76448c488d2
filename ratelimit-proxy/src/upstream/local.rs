//! What one thread has of the upstreams: idle connections, one pool for each server, and whose turn it is. No lock,
//! and no connection changes threads.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::balance::{Way, floor, pick};
use super::connect::{Protocol, Unconnected, connect};
use super::group::{Group, Upstreams};
use super::h2::{Stream, Trunk};
use super::link::{Carrier, Connection};
use super::retry::Budget;
use super::server::Server;
use super::target::Scheme;
use crate::policy::Route;

/// Idle connections kept at most, each thread and server.
const CAPACITY: usize = 256;

/// How long one is kept. Upstreams close theirs after a time of their own; that is noticed before reuse.
const IDLE: Duration = Duration::from_secs(60);

/// How often connections that nobody asks for any more are looked through.
pub(crate) const SWEEP: Duration = Duration::from_secs(5);

/// All upstreams of a thread, in the order of the file.
#[derive(Default)]
pub(crate) struct Local {
    groups: Box<[LocalGroup]>,
}

/// One upstream of a thread.
pub(crate) struct LocalGroup {
    pub(crate) group: Arc<Group>,
    /// In the order of the group's servers.
    places: Box<[Rc<Place>]>,
    turn: Cell<usize>,
    budget: Budget,
}

/// What a thread has of one server.
pub(super) struct Place {
    server: Arc<Server>,
    /// Whether it is of no use any more: the configuration does not name it.
    closed: Cell<bool>,
    // Boxed, because a link moves from here to a request's future and on to its response's body. The last one put
    // back is the first one taken, so that surplus ones grow old.
    #[expect(clippy::vec_box, reason = "links move often and are large")]
    idle: RefCell<Vec<Box<Connection>>>,
    /// Connections that carry many requests.
    trunks: RefCell<Vec<Trunk>>,
    /// One at a time makes such a connection, and the others find it made.
    making: Semaphore,
    /// Whether the server was found to speak HTTP/1.1, where that is its choice.
    plain: Cell<bool>,
}

impl Local {
    /// Of these upstreams, with the connections of `before` to servers that are still named.
    pub(crate) fn new(upstreams: &Upstreams, before: &Self) -> Self {
        let mut places: Vec<Rc<Place>> = before.places().map(Rc::clone).collect();
        let mut place = |server: &Arc<Server>| {
            if let Some(known) = places.iter().find(|place| Arc::ptr_eq(&place.server, server)) {
                return Rc::clone(known);
            }
            let new = Rc::new(Place {
                server: Arc::clone(server),
                closed: Cell::new(false),
                idle: RefCell::default(),
                trunks: RefCell::default(),
                making: Semaphore::new(1),
                plain: Cell::new(server.target.scheme() == Scheme::Http),
            });
            places.push(Rc::clone(&new));
            new
        };
        let group = |group: &Arc<Group>| LocalGroup {
            places: group.servers.iter().map(&mut place).collect(),
            group: Arc::clone(group),
            // Threads and replicas do not begin with the same one.
            turn: Cell::new(fastrand::usize(..group.servers.len().max(1))),
            budget: Budget::default(),
        };
        let local = Self { groups: upstreams.groups().iter().map(group).collect() };
        for place in before.places() {
            let stays = local.places().any(|other| Rc::ptr_eq(place, other));
            place.closed.set(!stays);
            if !stays {
                place.clear();
            }
        }
        local
    }

    fn places(&self) -> impl Iterator<Item = &Rc<Place>> {
        self.groups.iter().flat_map(|group| &group.places)
    }

    /// Where a request goes.
    #[inline]
    pub(crate) fn group(&self, route: Route) -> Option<&LocalGroup> {
        self.groups.get(route.upstream)
    }

    /// Drops all idle connections.
    pub(crate) fn clear(&self) {
        self.places().for_each(|place| place.clear());
    }

    /// Drops the connections that were closed by their server or have not been used for long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.places().for_each(|place| place.sweep(now));
    }
}

impl LocalGroup {
    /// A server for a request; none of those in `tried`. `None` if there is no other.
    #[inline]
    pub(crate) fn pick(&self, hash: Option<u64>, now: Instant, tried: &Tried) -> Option<Picked> {
        match &*self.places {
            [only] if self.group.way != Way::LeastRequests => {
                tried.is_empty().then(|| Picked::new(only, 0, false, false))
            }
            places => self.pick_of(places, hash, now, tried),
        }
    }

    fn pick_of(
        &self,
        places: &[Rc<Place>],
        hash: Option<u64>,
        now: Instant,
        tried: &Tried,
    ) -> Option<Picked> {
        let servers = &self.group.servers;
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let choose = |may: &dyn Fn(usize) -> bool| pick::<Server>(self.group.way, servers, turn, hash, may);
        let is_usable = |number: usize| servers.get(number).is_some_and(|server| server.is_usable(now));
        let new = |number: usize| !tried.contains(&number);
        let usable = (0..servers.len()).filter(|number| is_usable(*number)).count();
        let mut number = None;
        if usable >= floor(servers.len()) {
            number = choose(&|number| new(number) && is_usable(number));
            // Another request may be trying it.
            while let Some(chosen) = number
                && servers.get(chosen).is_some_and(|server| !server.claim(now))
            {
                number = choose(&|number| new(number) && number != chosen && is_usable(number));
            }
        }
        // Rather one that seems to fail than none.
        let number = number.or_else(|| choose(&new))?;
        let counted = self.group.way == Way::LeastRequests;
        places.get(number).map(|place| Picked::new(place, number, counted, servers.len() > 1))
    }

    /// A request comes. Returns how often it may be tried again.
    #[inline]
    pub(crate) fn begin(&self) -> u32 {
        if self.group.retries > 0 {
            self.budget.pay_in();
        }
        self.group.retries
    }

    /// A server for a request that those in `tried` did not answer: another, if there is one. `None` if too much is
    /// tried again at the moment.
    pub(crate) fn pick_again(&self, hash: Option<u64>, now: Instant, tried: &Tried) -> Option<Picked> {
        if !self.budget.draw() {
            return None;
        }
        // It is nobody's turn: a server that fails would get every request first, and the next one the retry.
        let turn = self.turn.get();
        let picked = self.pick(hash, now, tried).or_else(|| self.pick(hash, now, &Tried::new()));
        self.turn.set(turn);
        picked
    }

    /// Whether any server is thought to work.
    pub(crate) fn any_up(&self) -> bool {
        self.group.servers.iter().any(|server| server.is_up())
    }
}

/// The numbers of servers that a request was given to.
pub(crate) type Tried = SmallVec<[usize; 4]>;

/// A server that a request goes to.
pub(crate) struct Picked {
    place: Rc<Place>,
    /// Its number in the upstream.
    pub(crate) number: usize,
    /// Whether the server counts its requests.
    counted: bool,
    /// Whether the server is left out when it fails.
    watched: bool,
}

impl Picked {
    #[inline]
    fn new(place: &Rc<Place>, number: usize, counted: bool, watched: bool) -> Self {
        if counted {
            place.server.begin();
        }
        Self { place: Rc::clone(place), number, counted, watched }
    }

    /// The server.
    pub(crate) fn server(&self) -> &Server {
        &self.place.server
    }

    /// A connection to it that was fine a moment ago, or one that carries others.
    pub(super) fn take(&self, now: Instant) -> Option<Carrier> {
        self.place.take(now).map(Carrier::H1).or_else(|| self.place.ride().map(Carrier::H2))
    }

    /// A new connection to it, or one that somebody else has made meanwhile and that carries many.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(crate) async fn connect(&self, now: Instant) -> Result<Carrier, Unconnected> {
        let place = &self.place;
        // It is never closed, so there is a turn.
        let _turn = if place.plain.get() { None } else { place.making.acquire().await.ok() };
        if let Some(stream) = place.ride() {
            return Ok(Carrier::H2(stream));
        }
        let (socket, protocol) = connect(&place.server).await?;
        place.plain.set(protocol == Protocol::Http1);
        match protocol {
            Protocol::Http1 => Ok(Carrier::H1(Box::new(Connection::new(socket, now)))),
            Protocol::Http2 => {
                let trunk = Trunk::new(socket, now).await;
                let trunk = trunk.map_err(|error| Unconnected::Unreachable(io::Error::other(error)))?;
                let stream = Box::new(trunk.stream(false));
                if !place.closed.get() {
                    place.trunks.borrow_mut().push(trunk);
                }
                Ok(Carrier::H2(stream))
            }
        }
    }

    /// Keeps a connection for the next request, unless it can't be used again.
    pub(super) fn put_back(&self, connection: Box<Connection>, now: Instant) {
        if !self.place.closed.get() {
            self.place.put_back(connection, now);
        }
    }

    /// The server answered.
    #[inline]
    pub(crate) fn succeeded(&self) {
        if self.watched {
            self.place.server.succeeded();
        }
    }

    /// The server failed.
    pub(crate) fn failed(&self, group: &Group, now: Instant) {
        if self.watched {
            self.place.server.failed(now, group.can_spare_one());
        }
    }
}

impl Drop for Picked {
    #[inline]
    fn drop(&mut self) {
        if self.counted {
            self.place.server.end();
        }
    }
}

impl Place {
    fn take(&self, now: Instant) -> Option<Box<Connection>> {
        loop {
            let mut connection = self.idle.borrow_mut().pop()?;
            if is_fresh(&mut connection, now) {
                return Some(connection);
            }
        }
    }

    fn put_back(&self, mut connection: Box<Connection>, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        if connection.can_be_kept() && idle.len() < CAPACITY {
            connection.rest();
            connection.reused = true;
            connection.idle_since = now;
            idle.push(connection);
        }
    }

    /// Room on a connection that carries others.
    fn ride(&self) -> Option<Box<Stream>> {
        let trunks = self.trunks.borrow();
        trunks.iter().find(|trunk| trunk.has_room()).map(|trunk| Box::new(trunk.stream(true)))
    }

    /// Those that carry requests end with the last of these.
    fn clear(&self) {
        self.idle.take();
        self.trunks.take();
    }

    fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain_mut(|connection| is_fresh(connection, now));
        self.trunks.borrow_mut().retain(|trunk| trunk.is_of_use(now));
    }
}

fn is_fresh(connection: &mut Connection, now: Instant) -> bool {
    now.saturating_duration_since(connection.idle_since) < IDLE && connection.is_ready()
}
