//! The task that owns the connection: collects what waits into batches, keeps two of them under way, connects
//! anew when it must, and tells everybody when the store is gone or back.
//!
//! A decision that finds nothing under way is sent at once; one that finds the store busy waits for a place and
//! travels with whatever else waits by then. So batches grow by themselves under load, and no timer delays
//! anybody.

mod answers;
mod lifecycle;
mod news;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use ratelimit_core::time::Clock;
use ratelimit_core::{Nanos, StoreError};
use redis::Value;
use smallvec::smallvec;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Sleep, sleep};

pub(crate) use self::answers::release_of;
use crate::batch::{Batch, Batcher, Context, Judged, REQUESTS, Request};
use crate::breaker::Breaker;
use crate::calls::Observer;
use crate::couriers::{Asker, Couriers};
use crate::error::{Remedy, Trouble};
use crate::health::Standing;
use crate::keys::{Digest, Names};
use crate::link::{Link, census_call, connect, dataset_of, elapsed, next_step, replicas_of};
use crate::notes::{Operation, Reader};
use crate::permits::Ledger;
use crate::script::Script;
use crate::shape::{Shape, float};
use crate::shared::Shared;
use crate::survey::Survey;
use crate::topology::Topology;
use crate::wire::Part;

/// Batches under way at once: one is being answered while the next is on its way.
const UNDER_WAY: usize = 2;
/// The same of requests that travel alone, which may have to wait for their keys to be together.
const APART: usize = 32;
/// How often it is looked at what lapses.
const TICK: Duration = Duration::from_millis(100);
/// How often a replica says that it is alive, and asks for news: all know of a change within a second.
const CENSUS: Duration = Duration::from_millis(400);

/// What the task is made of.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) topology: Topology,
    /// In a Cluster, the slot that all of the keys are in.
    pub(crate) slot: u16,
    /// What operators know of this partition.
    pub(crate) standing: Standing,
    pub(crate) names: Names,
    pub(crate) deadline: Duration,
    pub(crate) permit_expiry: Nanos,
    pub(crate) replica: [u8; 8],
    pub(crate) observer: Option<Observer>,
}

/// Something that was under way.
enum Done {
    /// A batch, its reply, the connection it was sent over, and when.
    Batch(Batch, Result<Value, Trouble>, u64, Nanos),
    Census(Result<Value, Trouble>, u64),
    Survey(Survey),
    /// All notes.
    Notes(Result<Value, Trouble>),
    /// An operation on them, for whoever waits.
    Noted(oneshot::Sender<Result<Value, Trouble>>, Result<Value, Trouble>, u64),
}

/// The first attempt to connect, reported to whoever waits for it.
pub(crate) type Ready = oneshot::Sender<Result<(), StoreError>>;

pub(crate) struct Dispatcher {
    settings: Settings,
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    operations: mpsc::Receiver<Operation>,
    ready: Option<Ready>,
    decide: Arc<Script>,
    takes: Arc<Script>,
    census: Arc<Script>,
    notes: Arc<Script>,
    /// What is known of the notes.
    reader: Reader,
    batcher: Batcher,
    breaker: Breaker,
    ledger: Ledger,
    link: Link,
    /// Counts connections: what an older one says is not held against this one.
    generation: u64,
    rebuilt: Nanos,
    /// Until when requests wait for a connection that was just lost.
    grace: Option<Pin<Box<Sleep>>>,
    waiting: VecDeque<Request>,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    batches: usize,
    apart: usize,
    /// The last batch had several requests.
    is_crowded: bool,
    sequence: u64,
    next_census: Pin<Box<Sleep>>,
    /// What the store's clock said, and ours then.
    store_time: Option<(f64, Nanos)>,
    /// What the server said of itself, and the name of its data.
    survey: Survey,
    dataset: Option<Vec<u8>>,
    /// When the store came back, until it is asked again.
    back: Option<Nanos>,
    /// What was spent without the store and it has to be told of, at the latest with the key's next decision.
    spent: HashMap<Digest, Part>,
    /// Those who wait until nothing else does.
    flushes: Vec<Asker>,
    couriers: Couriers,
}

impl Dispatcher {
    pub(crate) fn new(
        settings: Settings,
        shared: Arc<Shared>,
        requests: mpsc::Receiver<Request>,
        operations: mpsc::Receiver<Operation>,
        ready: Ready,
    ) -> Self {
        let (decide, census) = (Arc::new(Script::decide()), Arc::new(Script::census()));
        let link = Link::Connecting(connect(&settings, &census));
        Self {
            settings,
            shared,
            requests,
            operations,
            ready: Some(ready),
            decide,
            takes: Arc::new(Script::takes()),
            census,
            notes: Arc::new(Script::notes()),
            reader: Reader::default(),
            batcher: Batcher::default(),
            breaker: Breaker::new(),
            ledger: Ledger::default(),
            link,
            generation: 0,
            rebuilt: Nanos::ZERO,
            grace: None,
            waiting: VecDeque::new(),
            under_way: FuturesUnordered::new(),
            batches: 0,
            apart: 0,
            is_crowded: false,
            sequence: 0,
            next_census: Box::pin(sleep(CENSUS)),
            store_time: None,
            survey: Survey::default(),
            dataset: None,
            back: None,
            spent: HashMap::default(),
            flushes: Vec::new(),
            couriers: Couriers::default(),
        }
    }

    /// Runs until the last handle of the store is gone and everything that was posted is made.
    pub(crate) async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut open = true;
        // What is left when the last handle goes is sent if there is a connection, and not waited for otherwise.
        while open
            || (matches!(self.link, Link::Up(_))
                && !(self.waiting.is_empty() && self.batches + self.apart == 0))
        {
            self.collect();
            if self.has_room() && (self.is_crowded || self.waiting.len() > 1) {
                // Who asks may be in the middle of a turn, with more to ask, and share this processor: let it
                // finish. A decision that is alone does not wait for that.
                std::thread::yield_now();
                self.collect();
            }
            self.send();
            self.flushed();
            tokio::select! {
                request = self.requests.recv(), if open && self.listens() => match request {
                    Some(request) => self.received(request),
                    None => open = false,
                },
                Some(done) = self.under_way.next(), if !self.under_way.is_empty() => self.done(done),
                step = next_step(&mut self.link) => match step {
                    Some(line) => self.connected(line),
                    None => self.link = Link::Connecting(connect(&self.settings, &self.census)),
                },
                () = elapsed(&mut self.grace) => {
                    self.grace = None;
                    self.gone("no connection");
                }
                () = &mut self.next_census => self.take_census(),
                Some(operation) = self.operations.recv() => self.operate(operation),
                _ = tick.tick() => {
                    self.waiting.extend(self.shared.kept_releases());
                    self.keep_permits();
                    self.return_to_store();
                    self.shared.denied.sweep(self.now());
                    self.couriers.look_after();
                }
            }
        }
    }

    /// Whether it is worth being woken by the next request. One that could not be sent can as well wait where it is.
    fn listens(&self) -> bool {
        self.batches < UNDER_WAY && self.waiting.len() < REQUESTS || self.breaker.is_open()
    }

    /// Takes what has come meanwhile, for one batch.
    fn collect(&mut self) {
        while self.waiting.len() < REQUESTS
            && let Ok(request) = self.requests.try_recv()
        {
            self.received(request);
        }
    }

    fn received(&mut self, request: Request) {
        match request.parts.is_empty() {
            true => self.flushes.extend(request.answer),
            false => self.waiting.push_back(request),
        }
        if self.breaker.is_open() {
            self.refuse_waiting();
        }
    }

    fn now(&self) -> Nanos {
        self.shared.clock.now()
    }

    /// What the store's clock says now, as far as is known, in microseconds.
    fn time(&self) -> f64 {
        match self.store_time {
            Some((time, at)) => time + float(self.now().saturating_sub(at).get() / 1000),
            None => float(self.shared.clock.utc().get() / 1000),
        }
    }

    /// Sends what waits, as far as there is room for it.
    fn send(&mut self) {
        if !matches!(self.link, Link::Up(_)) {
            return;
        }
        self.tell_spent();
        let Link::Up(line) = &self.link else { return };
        while self.has_room() {
            let context = Context {
                names: &self.settings.names,
                replica: self.settings.replica,
                sequence: self.sequence + 1,
                expiry: self.settings.permit_expiry,
                time: self.time(),
            };
            let Some((batch, call)) = self.batcher.next(&mut self.waiting, &context) else { return };
            self.sequence += 1;
            self.is_crowded = batch.requests.len() > 1;
            match batch.is_apart() {
                true => self.apart += 1,
                false => self.batches += 1,
            }
            if batch.has_permits {
                let now = self.now();
                batch.requests.iter().for_each(|request| self.ledger.sending(&request.parts, now));
            }
            let script = if batch.is_takes { &self.takes } else { &self.decide };
            let (mut line, script) = (line.clone(), Arc::clone(script));
            let (deadline, generation, sent) = (self.settings.deadline, self.generation, self.now());
            self.under_way.push(Box::pin(async move {
                let reply = line.run(&script, &call, deadline).await;
                Done::Batch(batch, reply, generation, sent)
            }));
        }
    }

    /// Whether what waits first can be sent.
    fn has_room(&self) -> bool {
        self.waiting.front().is_some_and(|request| match request.alone {
            true => self.apart < APART,
            false => self.batches < UNDER_WAY,
        })
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Batch(batch, reply, generation, sent) => {
                match batch.is_apart() {
                    true => self.apart = self.apart.saturating_sub(1),
                    false => self.batches = self.batches.saturating_sub(1),
                }
                let judged = reply.and_then(|reply| match reply {
                    Value::BulkString(bytes) => batch.judge(&bytes),
                    _ => Err(Trouble::garbled()),
                });
                self.tell(&batch, sent, &judged);
                match judged {
                    Ok(Judged::Answered { answers, held, time }) => {
                        self.store_time = Some((time, self.now()));
                        self.breaker.succeeded();
                        self.answer(batch, answers, &held);
                    }
                    Ok(Judged::WrongCalendar { time }) => self.ask_again(batch, time),
                    Err(trouble) if trouble.remedy == Remedy::Again => self.send_apart(batch, &trouble),
                    Err(trouble) => {
                        self.fail(batch, &trouble);
                        self.failed(&trouble, generation);
                    }
                }
            }
            Done::Census(Ok(reply), _) => {
                self.breaker.succeeded();
                if let Some(replicas) = replicas_of(&reply) {
                    self.shared.replicas.heard(replicas, self.now());
                }
                self.heard_of_data(dataset_of(&reply));
                self.heard_of_notes(&reply);
            }
            Done::Census(Err(trouble), generation) => self.failed(&trouble, generation),
            Done::Survey(survey) => self.surveyed(survey),
            Done::Notes(reply) => self.reader.read(reply, &self.shared, self.shared.now()),
            Done::Noted(answer, reply, generation) => {
                if let Err(trouble) = &reply {
                    self.failed(trouble, generation);
                }
                let _ = answer.send(reply);
            }
        }
    }

    /// Says again what is held before it lapses, and heals what is in doubt.
    fn keep_permits(&mut self) {
        if self.ledger.is_empty() || !matches!(self.link, Link::Up(_)) {
            return;
        }
        for (digest, limit, what) in self.ledger.due(self.now(), self.settings.permit_expiry, REQUESTS) {
            let parts = Arc::new(smallvec![Part { digest, shape: Shape::of(&limit), limit, what }]);
            self.waiting.push_back(Request { parts, answer: None, again: false, alone: false });
        }
    }

    fn take_census(&mut self) {
        // Spread by a fifth, so that replicas don't ask in step.
        let spread = fastrand::u64(0..160);
        self.next_census =
            Box::pin(sleep(CENSUS - Duration::from_millis(80) + Duration::from_millis(spread)));
        let Link::Up(line) = &self.link else { return };
        let (mut line, script) = (line.clone(), Arc::clone(&self.census));
        let (deadline, generation) = (self.settings.deadline, self.generation);
        let call = census_call(&self.settings);
        self.under_way.push(Box::pin(async move {
            Done::Census(line.run(&script, &call, deadline).await, generation)
        }));
    }
}
