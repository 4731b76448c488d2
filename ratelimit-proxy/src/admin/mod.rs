//! Administration: health, metrics, limits in force, what can be changed of them. On a thread and a runtime of its own, with connections of its
//! own, so that nothing that happens here is felt by traffic.

mod ask;
mod auth;
mod call;
mod explain;
mod guard;
mod history;
mod keys;
mod level;
mod limits;
mod page;
mod profile;
mod reply;
mod routes;
mod stats;
mod top;
mod upstreams;
mod view;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::routes::Routes;
pub(crate) use self::view::View;
use crate::config::AdminToken;
use crate::server::descriptors::Spare;
use crate::supervise;

/// How long a client may take for the head of a request.
const HEAD: Duration = Duration::from_secs(2);
/// How long a connection is kept, and how long a response that is being read then may still take. Whoever reads
/// slowly, or not at all, has lost its place after that.
const AGE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// How long to wait when the machine has no more to give.
const PAUSE: Duration = Duration::from_millis(100);

/// The thread that answers operators.
pub(crate) struct Admin {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: std::thread::JoinHandle<()>,
}

impl Admin {
    /// Answers on that listener, at most so many connections at a time; others wait in the kernel's queue.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(
        listener: TcpListener,
        view: &Arc<View>,
        token: Option<AdminToken>,
        connections: usize,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let routes = Arc::new(Routes::new(Arc::clone(view), address, token));
        let work = move || serve(&listener, &routes, connections, stopped.clone());
        let thread = supervise::thread("admin", &view.shared().metrics, work)?;
        Ok(Self { address, stop, thread })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it, with what is under way.
    pub(crate) fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.thread.join();
    }
}

fn serve(
    listener: &TcpListener,
    routes: &Arc<Routes>,
    connections: usize,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
        let slots = Arc::new(Semaphore::new(connections));
        let watched = Arc::clone(routes);
        let metrics = Arc::clone(&routes.view().shared().metrics);
        tokio::spawn(supervise::keep("history", &metrics, move || {
            let watched = Arc::clone(&watched);
            async move { history::keep(watched.view()).await }
        }));
        let mut connections = JoinSet::new();
        let mut spare = Spare::new();
        loop {
            let accepting = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (listener.accept().await, slot)
            };
            tokio::select! {
                (accepted, slot) = accepting => match accepted {
                    Ok((socket, peer)) => {
                        let routes = Arc::clone(routes);
                        // What a connection took of the spare ones has to come back.
                        let keep = !spare.is_spent();
                        connections.spawn(async move {
                            connection(socket, peer, routes, keep).await;
                            drop(slot);
                        });
                    }
                    Err(_) => {
                        routes.view().shared().shortage.begin();
                        if !spare.release() {
                            tokio::time::sleep(PAUSE).await;
                        }
                    }
                },
                Some(ended) = connections.join_next() => {
                    spare.refill();
                    if ended.is_err_and(|error| error.is_panic()) {
                        routes.view().shared().metrics.panic();
                    }
                }
                _ = stopped.wait_for(|stop| *stop) => return Ok(()),
            }
        }
    })
}

async fn connection(socket: TcpStream, peer: SocketAddr, routes: Arc<Routes>, keep: bool) {
    let service = service_fn(move |request| {
        let routes = Arc::clone(&routes);
        async move { Ok::<_, std::convert::Infallible>(routes.answer(request, peer).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(keep)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    if tokio::time::timeout(AGE.0, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(AGE.1, connection).await;
    }
}

/// What a lock guards stays usable when a thread panicked with it: it is replaced as a whole.
fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
