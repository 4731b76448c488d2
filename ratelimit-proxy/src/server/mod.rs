//! Sockets and threads. [`Server::start`] serves on as many threads as there are processors; each has its own
//! listener on the same address (`SO_REUSEPORT`), and the kernel spreads connections over them.

mod accept;
mod body;
mod connection;
pub(crate) mod crowd;
pub(crate) mod descriptors;
mod drain;
mod h1;
mod h2;
mod io;
pub(crate) mod linger;
mod opening;
pub(crate) mod ports;
pub(crate) mod tls;
mod websocket;
mod worker;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

pub(crate) use self::body::ClientBody;
pub use self::drain::Drained;
use self::drain::Stage;
use self::ports::Ports;
use self::worker::{Setup, run, runtime};
use crate::config::Listener;
use crate::state::Shared;
use crate::supervise::keep;

/// Listening sockets, several of them on each address: one for each thread.
pub struct Listeners(Arc<Ports>);

impl Listeners {
    /// Listens everywhere, for that many threads. Port 0 is some free port, the same for all threads;
    /// [`Listeners::addresses`] tells which.
    ///
    /// # Errors
    /// When an address can't be listened on, and then the address is part of the error, or when certificates can't be
    /// used.
    pub fn bind(wanted: &[Listener], threads: usize) -> std::io::Result<Self> {
        Ports::bind(wanted, threads).map(Self)
    }

    /// What is listened on, in the order asked for.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.addresses()
    }

    /// What a reload may change.
    pub(crate) fn ports(&self) -> Arc<Ports> {
        Arc::clone(&self.0)
    }
}

/// The proxy, serving.
pub struct Server {
    ports: Arc<Ports>,
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
        let Listeners(ports) = listeners;
        let count = ports.threads();
        let mut server =
            Self { ports, shared: Arc::clone(shared), stage, threads: Vec::with_capacity(count) };
        for number in 0..count {
            let setup = Setup {
                shared: Arc::clone(shared),
                thread: number,
                ports: server.ports.subscribe(),
                sockets: RefCell::default(),
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

    /// What a reload may change.
    pub(crate) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.ports.addresses()
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
