//! One thread of the proxy: a runtime of its own, its own listeners, its own connections to the upstream.
//! Nothing of a request ever leaves it.

use std::cell::RefCell;
use std::io;
use std::net;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::accept::{accept, accept_rest};
use super::drain::{Drained, Stage};
use super::ports::Port;
use crate::state::{Shared, Worker};
use crate::supervise::keep;
use crate::upstream::SWEEP;

/// What a thread is given.
pub(super) struct Setup {
    pub(super) shared: Arc<Shared>,
    /// Which thread it is.
    pub(super) thread: usize,
    pub(super) ports: watch::Receiver<Vec<Arc<Port>>>,
    /// This thread's own, for the case that it has to begin anew. Taken away when the thread stops: a socket that
    /// somebody holds goes on taking connections.
    pub(super) sockets: RefCell<Vec<(Arc<Port>, net::TcpListener)>>,
    pub(super) max_connections: usize,
    pub(super) stage: watch::Receiver<Stage>,
}

impl Setup {
    /// Holds the sockets of those ports and no others. A port that takes the place of another has its socket.
    fn follow(&self, wanted: &[Arc<Port>]) -> io::Result<()> {
        let mut sockets = self.sockets.borrow_mut();
        for port in wanted {
            if sockets.iter().any(|(known, _)| Arc::ptr_eq(known, port)) {
                continue;
            }
            let before = || sockets.iter().find(|(known, _)| known.address == port.address);
            let socket = match (port.take(self.thread), before()) {
                (Some(socket), _) => socket,
                (None, Some((_, socket))) => socket.try_clone()?,
                (None, None) => continue,
            };
            sockets.push((Arc::clone(port), socket));
        }
        sockets.retain(|(known, _)| wanted.iter().any(|port| Arc::ptr_eq(known, port)));
        Ok(())
    }
}

/// A port while connections are taken in.
struct Entrance {
    port: Arc<Port>,
    task: JoinHandle<()>,
    listener: Rc<TcpListener>,
}

impl Entrance {
    fn open(
        port: &Arc<Port>,
        socket: &net::TcpListener,
        worker: &Rc<Worker>,
        slots: &Arc<Semaphore>,
    ) -> io::Result<Self> {
        let listener = Rc::new(TcpListener::from_std(socket.try_clone()?)?);
        let (port, task) = (Arc::clone(port), {
            let (worker, port) = (Rc::clone(worker), Arc::clone(port));
            let (listener, slots) = (Rc::clone(&listener), Arc::clone(slots));
            keep("accept", &worker.shared.metrics.clone(), move || {
                accept(Rc::clone(&worker), Arc::clone(&port), Rc::clone(&listener), Arc::clone(&slots))
            })
        });
        Ok(Self { port, task: tokio::task::spawn_local(task), listener })
    }

    fn is_in(&self, ports: &[Arc<Port>]) -> bool {
        ports.iter().any(|port| Arc::ptr_eq(&self.port, port))
    }

    /// Takes in who waits already, and nobody else.
    async fn close(self, worker: &Rc<Worker>, slots: &Arc<Semaphore>) {
        self.task.abort();
        accept_rest(worker, &self.port, &self.listener, slots).await;
    }
}

/// A runtime for one thread.
pub(super) fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default())
}

/// Serves until told to stop.
pub(super) async fn run(setup: &Setup) -> io::Result<Drained> {
    let worker = Worker::new(Arc::clone(&setup.shared));
    let slots = Arc::new(Semaphore::new(setup.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let swept = Rc::clone(&worker);
    tokio::task::spawn_local(keep("sweep", &setup.shared.metrics, move || sweep(Rc::clone(&swept))));

    let mut stage = setup.stage.clone();
    let mut ports = setup.ports.clone();
    let mut entrances: Vec<Entrance> = Vec::new();
    let until = loop {
        let wanted = ports.borrow_and_update().clone();
        setup.follow(&wanted)?;
        let (stay, gone): (Vec<_>, Vec<_>) =
            entrances.into_iter().partition(|entrance| entrance.is_in(&wanted));
        entrances = stay;
        for (port, socket) in &*setup.sockets.borrow() {
            if !entrances.iter().any(|entrance| Arc::ptr_eq(&entrance.port, port)) {
                entrances.push(Entrance::open(port, socket, &worker, &slots)?);
            }
        }
        for entrance in gone {
            entrance.close(&worker, &slots).await;
        }
        tokio::select! {
            until = stopped(&mut stage) => break until,
            Ok(()) = ports.changed() => {}
        }
    };
    drop(setup.sockets.take());
    for entrance in entrances {
        entrance.close(&worker, &slots).await;
    }
    worker.wake_all();
    tokio::select! {
        () = worker.closed() => {}
        () = tokio::time::sleep_until(until) => {}
        () = closed(&mut stage) => {}
    }
    // Dropping the runtime drops what is left, permits and all.
    Ok(Drained { finished: worker.finished(), forced: worker.open() })
}

/// Waits for the word to stop, and says until when connections may go on.
async fn stopped(stage: &mut watch::Receiver<Stage>) -> Instant {
    match stage.wait_for(|stage| *stage != Stage::Serving).await.as_deref() {
        Ok(Stage::Draining { until }) => *until,
        // Closed at once, or whoever could have told is gone.
        _ => Instant::now(),
    }
}

async fn closed(stage: &mut watch::Receiver<Stage>) {
    // An error means that nobody will ever tell.
    let _ = stage.wait_for(|stage| *stage == Stage::Closed).await;
}

/// Closes connections to the upstream that nobody has asked for in a while; all idle ones where memory is short.
async fn sweep(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        // Rules that are out of force are not held by a thread that nobody asks anything.
        let _ = worker.rules();
        worker.sweep(worker.shared.memory.is_short());
    }
}
