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
use tokio::time::Instant;

use super::accept::{accept, accept_rest};
use super::drain::{Drained, Stage};
use crate::state::{Shared, Worker};
use crate::supervise::keep;
use crate::upstream::SWEEP;

/// What a thread is given.
pub(super) struct Setup {
    pub(super) shared: Arc<Shared>,
    /// Taken away when the thread stops: a socket that somebody holds goes on taking connections.
    pub(super) listeners: RefCell<Vec<net::TcpListener>>,
    pub(super) max_connections: usize,
    pub(super) stage: watch::Receiver<Stage>,
}

/// A runtime for one thread.
pub(super) fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default())
}

/// Serves until told to stop.
pub(super) async fn run(setup: &Setup) -> io::Result<Drained> {
    let worker = Worker::new(Arc::clone(&setup.shared));
    let slots = Arc::new(Semaphore::new(setup.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let mut accepting = Vec::new();
    for listener in &*setup.listeners.borrow() {
        let listener = Rc::new(TcpListener::from_std(listener.try_clone()?)?);
        let task = {
            let (worker, listener, slots) = (Rc::clone(&worker), Rc::clone(&listener), Arc::clone(&slots));
            keep("accept", &setup.shared.metrics, move || {
                accept(Rc::clone(&worker), Rc::clone(&listener), Arc::clone(&slots))
            })
        };
        accepting.push((tokio::task::spawn_local(task), listener));
    }
    let swept = Rc::clone(&worker);
    tokio::task::spawn_local(keep("sweep", &setup.shared.metrics, move || sweep(Rc::clone(&swept))));

    let mut stage = setup.stage.clone();
    let until = stopped(&mut stage).await;
    drop(setup.listeners.take());
    for (task, listener) in accepting {
        task.abort();
        accept_rest(&worker, &listener, &slots).await;
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
