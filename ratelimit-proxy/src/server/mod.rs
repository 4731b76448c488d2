//! Sockets and threads. [`Server::start`] serves on as many threads as there are processors; each has its own
//! listener on the same address (`SO_REUSEPORT`), and the kernel spreads connections over them.

mod accept;
mod connection;
pub(crate) mod descriptors;
mod drain;
mod io;
pub(crate) mod linger;
mod worker;

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

pub use self::drain::Drained;
use self::drain::Stage;
use self::worker::{Setup, run, runtime};
use crate::state::Shared;
use crate::supervise::keep;

/// Connections the kernel holds for us while we are busy.
const BACKLOG: i32 = 4096;

/// Listening sockets, several of them on each address: one for each thread.
#[derive(Debug)]
pub struct Listeners {
    addresses: Vec<SocketAddr>,
    threads: Vec<Vec<TcpListener>>,
}

impl Listeners {
    /// Listens on all `addresses`, for that many threads. Port 0 is some free port, the same for all threads;
    /// [`Listeners::addresses`] tells which.
    ///
    /// # Errors
    /// When an address can't be listened on; the address is part of the error.
    pub fn bind(addresses: &[SocketAddr], threads: usize) -> std::io::Result<Self> {
        let mut bound = Self { addresses: Vec::new(), threads: Vec::new() };
        bound.threads.resize_with(threads.max(1), Vec::new);
        for wanted in addresses {
            let mut address = *wanted;
            for (number, listeners) in bound.threads.iter_mut().enumerate() {
                let listener = listen(address).map_err(|error| {
                    std::io::Error::new(error.kind(), format!("can't listen on {address}: {error}"))
                })?;
                if number == 0 {
                    address = listener.local_addr()?;
                    bound.addresses.push(address);
                }
                listeners.push(listener);
            }
        }
        Ok(bound)
    }

    /// What is listened on, in the order asked for.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The proxy, serving.
pub struct Server {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    stage: watch::Sender<Stage>,
    threads: Vec<(oneshot::Receiver<std::io::Result<Drained>>, JoinHandle<()>)>,
}

impl Server {
    /// Serves on those listeners, one thread for each set of them.
    ///
    /// # Errors
    /// When a thread or its runtime can't be started.
    pub fn start(shared: &Arc<Shared>, listeners: Listeners) -> std::io::Result<Self> {
        let (stage, _) = watch::channel(Stage::Serving);
        let count = listeners.threads.len();
        let mut server = Self {
            addresses: listeners.addresses,
            shared: Arc::clone(shared),
            stage,
            threads: Vec::with_capacity(count),
        };
        for (number, listeners) in listeners.threads.into_iter().enumerate() {
            let setup = Setup {
                shared: Arc::clone(shared),
                listeners: RefCell::new(listeners),
                max_connections: shared.max_connections.div_ceil(count),
                stage: server.stage.subscribe(),
            };
            let (ended, end) = oneshot::channel();
            let (started, start) = std::sync::mpsc::sync_channel(1);
            let main = move || match runtime() {
                Ok(runtime) => {
                    let _ = started.send(Ok(()));
                    let metrics = Arc::clone(&setup.shared.metrics);
                    let result = runtime.block_on(keep("worker", &metrics, || run(&setup)));
                    if let Err(error) = &result {
                        tracing::error!(%error, "a thread that serves has ended");
                    }
                    // What is left of connections ends here, before anybody hears that it did.
                    drop(runtime);
                    let _ = ended.send(result);
                }
                Err(error) => drop(started.send(Err(error))),
            };
            let thread = thread::Builder::new().name(format!("worker-{number}")).spawn(main)?;
            start.recv().map_err(std::io::Error::other)??;
            server.threads.push((end, thread));
        }
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Takes no new connections, lets requests under way finish, and cuts what is left after `deadline`. It begins at
    /// the call, not at the first poll: every answer from then on is the last of its connection.
    ///
    /// # Errors
    /// When a thread failed while it served.
    pub fn drain(self, deadline: Duration) -> impl Future<Output = std::io::Result<Drained>> {
        let until = Instant::now() + deadline;
        self.shared.start_draining();
        // A close that came first stands.
        self.stage.send_if_modified(|stage| {
            let serving = *stage == Stage::Serving;
            if serving {
                *stage = Stage::Draining { until };
            }
            serving
        });
        let Self { threads, stage, .. } = self;
        async move {
            let mut drained = Drained::default();
            for (end, thread) in threads {
                let panicked = || std::io::Error::other("a thread of the proxy panicked");
                drained = drained.and(end.await.map_err(|_| panicked())??);
                thread.join().map_err(|_| panicked())?;
            }
            // Threads take its end for the word to close at once.
            drop(stage);
            Ok(drained)
        }
    }

    /// A handle that ends a drain at once: for a second signal.
    #[must_use]
    pub fn closer(&self) -> Closer {
        Closer(self.stage.clone())
    }
}

/// Cuts all connections of a [`Server`].
#[derive(Clone, Debug)]
pub struct Closer(watch::Sender<Stage>);

impl Closer {
    /// Does so.
    pub fn close(&self) {
        self.0.send_replace(Stage::Closed);
    }
}
