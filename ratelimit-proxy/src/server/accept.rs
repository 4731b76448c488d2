//! Takes connections in: as many as there may be, and without spinning when the machine has no more to give.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::connection::serve;
use super::ports::Port;
use crate::state::Worker;
use crate::telemetry::metrics::Pressure;

/// The first and the longest pause after the machine refused a connection (no file descriptors, no memory).
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(1000));

/// Accepts until dropped.
pub(super) async fn accept(
    worker: Rc<Worker>,
    port: Arc<Port>,
    listener: Rc<TcpListener>,
    slots: Arc<Semaphore>,
) {
    let mut pause = PAUSE.0;
    loop {
        // Before accepting: what waits in the kernel's queue costs us nothing.
        let slot = match Arc::clone(&slots).try_acquire_owned() {
            Ok(slot) => slot,
            Err(_full) => {
                worker.metrics.pressure(Pressure::Full);
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
                slot
            }
        };
        match take(&worker, &listener).await {
            Ok((socket, peer)) => {
                pause = PAUSE.0;
                spawn(&worker, &port, socket, peer, slot);
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                worker.shared.shortage.begin();
                worker.metrics.pressure(Pressure::Starved);
                if pause == PAUSE.0 {
                    tracing::warn!(%error, "connections can't be taken in and have to wait");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// Takes in the next one, unless file descriptors are short.
async fn take(worker: &Worker, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    if worker.shared.shortage.lasts() {
        return Err(io::Error::other("too few file descriptors are left"));
    }
    listener.accept().await
}

/// Takes in what is in the queue already, so that closing the listener resets nobody.
pub(super) async fn accept_rest(
    worker: &Rc<Worker>,
    port: &Arc<Port>,
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) {
    while let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
        let waiting = tokio::time::timeout(Duration::ZERO, listener.accept());
        let Ok(Ok((socket, peer))) = waiting.await else { return };
        spawn(worker, port, socket, peer, slot);
    }
}

fn spawn(
    worker: &Rc<Worker>,
    port: &Arc<Port>,
    socket: TcpStream,
    peer: SocketAddr,
    slot: tokio::sync::OwnedSemaphorePermit,
) {
    // A socket that can't be set up is one that is closed already.
    if socket.set_nodelay(true).is_err() {
        return;
    }
    let (worker, port) = (Rc::clone(worker), Arc::clone(port));
    tokio::task::spawn_local(async move {
        serve(worker, &port, socket, peer).await;
        drop(slot);
    });
}

/// Whether the error is about that one connection only.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
