//! The listener of Envoy's rate-limit service: threads and connections of its own, so that proxied traffic is not
//! felt here nor the other way round. HTTP/2 with prior knowledge, as gRPC has it, or over TLS.
//!
//! Envoy has one connection for each of its threads and keeps it, so connections are dealt out: each goes to the
//! thread that has the fewest.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};

use super::service::{self, Health};
use crate::admin::View;
use crate::config::RlsConfig;
use crate::server::tls::Tls;
use crate::supervise;
use crate::telemetry::metrics::{ProtocolError, WorkerMetrics};

/// Most connections; others wait in the kernel's queue.
const CONNECTIONS: usize = 1024;
/// Most questions of one connection that are under way.
const STREAMS: u32 = 1024;
/// How long a client may take for its first byte.
const FIRST: Duration = Duration::from_secs(10);
/// How often a client that says nothing is asked whether it is still there, and how long it may take to answer.
const PING: Duration = Duration::from_secs(20);
/// How long questions that are under way may take when a connection has reached its age, and when all end.
const GRACE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1));
/// How long to wait when the machine has no more to give.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked whether there is still somebody to serve.
const LOOK: Duration = Duration::from_millis(250);

/// The threads that answer Envoy.
pub(crate) struct Rls {
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    stop: watch::Sender<bool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// A connection and its place among those there may be.
type Dealt = (std::net::TcpStream, OwnedSemaphorePermit);

/// What the connections of one thread share.
pub(super) struct Thread {
    pub(super) view: Arc<View>,
    pub(super) metrics: Arc<WorkerMetrics>,
    dealt: Mutex<mpsc::Receiver<Dealt>>,
    open: AtomicUsize,
    health: Health,
    tls: Option<Arc<Tls>>,
    age: Duration,
}

/// A thread as it is dealt connections.
struct Hand {
    thread: Arc<Thread>,
    deal: mpsc::Sender<Dealt>,
}

impl Rls {
    /// Answers on that listener, with so many threads.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(
        listener: TcpListener,
        view: &Arc<View>,
        config: &RlsConfig,
        threads: usize,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let tls = config.tls.as_ref().map(Tls::load).transpose().map_err(io::Error::other)?;
        let (stop, stopped) = watch::channel(false);
        let reporter = HealthReporter::new();
        let health = Health::new(HealthService::from_health_reporter(reporter.clone()));
        let metrics = &view.shared().metrics;
        let hand = |_| {
            let (deal, dealt) = mpsc::channel(CONNECTIONS);
            let thread = Thread {
                view: Arc::clone(view),
                metrics: metrics.worker(),
                dealt: Mutex::new(dealt),
                open: AtomicUsize::new(0),
                health: health.clone(),
                tls: tls.clone(),
                age: config.max_connection_age,
            };
            Hand { thread: Arc::new(thread), deal }
        };
        let hands: Vec<_> = (0..threads.max(1)).map(hand).collect();
        let mut started = Vec::new();
        for hand in &hands {
            let (thread, stopped) = (Arc::clone(&hand.thread), stopped.clone());
            started.push(supervise::thread("rls", metrics, move || serve(&thread, &stopped))?);
        }
        let view = Arc::clone(view);
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let work = move || deal(&listener, &hands, &slots, &view, &reporter, &stopped);
        started.push(supervise::thread("rls-accept", metrics, work)?);
        Ok(Self { address, tls, stop, threads: started })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its certificates, unless it is plain.
    pub(crate) const fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// Takes no more connections, and asks those that are open to end.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until all has ended.
    pub(crate) fn join(self) {
        self.stop();
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().build()
}

/// Accepts connections and deals them out, and says how the service is.
fn deal(
    listener: &TcpListener,
    hands: &[Hand],
    slots: &Arc<Semaphore>,
    view: &View,
    reporter: &HealthReporter,
    stopped: &watch::Receiver<bool>,
) -> io::Result<()> {
    runtime()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
        let accepting = async {
            loop {
                let Ok(slot) = Arc::clone(slots).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((socket, _)) => {
                        let fewest = hands.iter().min_by_key(|hand| hand.thread.open.load(Ordering::Relaxed));
                        if let (Some(hand), Ok(socket)) = (fewest, socket.into_std()) {
                            hand.thread.open.fetch_add(1, Ordering::Relaxed);
                            // There is room for all that may be open.
                            let _ = hand.deal.try_send((socket, slot));
                        }
                    }
                    Err(_) => {
                        view.shared().shortage.begin();
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        };
        let mut stopped = stopped.clone();
        tokio::select! {
            () = accepting => {}
            never = reporting(reporter, view) => match never {},
            _ = stopped.wait_for(|stop| *stop) => {}
        }
        report(reporter, false).await;
        Ok(())
    })
}

async fn reporting(reporter: &HealthReporter, view: &View) -> Infallible {
    loop {
        report(reporter, view.unready().is_none()).await;
        tokio::time::sleep(LOOK).await;
    }
}

async fn report(reporter: &HealthReporter, serves: bool) {
    let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in ["", service::NAME] {
        reporter.set_service_status(name, status).await;
    }
}

/// Serves the connections that a thread is dealt.
fn serve(thread: &Arc<Thread>, stopped: &watch::Receiver<bool>) -> io::Result<()> {
    runtime()?.block_on(async {
        let mut dealt = thread.dealt.lock().await;
        let mut connections = JoinSet::new();
        let mut stop = stopped.clone();
        loop {
            tokio::select! {
                Some((socket, slot)) = dealt.recv() => {
                    let (thread, stopped) = (Arc::clone(thread), stopped.clone());
                    connections.spawn(async move {
                        let _open = Open(Arc::clone(&thread));
                        connection(thread, socket, stopped).await;
                        drop(slot);
                    });
                }
                Some(ended) = connections.join_next() => {
                    if ended.is_err_and(|error| error.is_panic()) {
                        thread.view.shared().metrics.panic();
                    }
                }
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        // Each knows itself when its time is up.
        while connections.join_next().await.is_some() {}
        Ok(())
    })
}

/// A connection that counts as open.
struct Open(Arc<Thread>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(thread: Arc<Thread>, socket: std::net::TcpStream, mut stopped: watch::Receiver<bool>) {
    let Ok(socket) = TcpStream::from_std(socket) else { return };
    let Ok(peer) = socket.peer_addr().map(|peer| peer.ip()) else { return };
    let _ = socket.set_nodelay(true);
    let spoke = tokio::select! {
        spoke = tokio::time::timeout(FIRST, socket.readable()) => matches!(spoke, Ok(Ok(()))),
        _ = stopped.wait_for(|stop| *stop) => false,
    };
    if !spoke {
        return;
    }
    let Some(tls) = thread.tls.clone() else { return serve_http2(thread, socket, peer, stopped).await };
    match tokio::time::timeout(FIRST, tls.accept(socket)).await {
        Ok(Ok((stream, _))) => serve_http2(thread, stream, peer, stopped).await,
        Ok(Err(_)) => thread.metrics.protocol_error(ProtocolError::Tls),
        Err(_) => thread.metrics.protocol_error(ProtocolError::Timeout),
    }
}

async fn serve_http2(
    thread: Arc<Thread>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: IpAddr,
    mut stopped: watch::Receiver<bool>,
) {
    // Those that came together do not go together.
    let age = thread.age.mul_f64(0.9 + 0.1 * fastrand::f64());
    let service = service_fn(move |call: Request<Incoming>| {
        let thread = Arc::clone(&thread);
        async move { Ok::<_, Infallible>(answer(thread, call, peer).await) }
    });
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(16 * 1024)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .serve_connection(TokioIo::new(stream), service)
    );
    let grace = tokio::select! {
        _ = connection.as_mut() => return,
        () = tokio::time::sleep(age) => GRACE.0,
        _ = stopped.wait_for(|stop| *stop) => GRACE.1,
    };
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(grace, connection).await;
}

/// Answers a call, whatever happens.
async fn answer(
    thread: Arc<Thread>,
    call: Request<Incoming>,
    peer: IpAddr,
) -> http::Response<tonic::body::Body> {
    let health = thread.health.clone();
    let answered =
        AssertUnwindSafe(service::answer(Arc::clone(&thread), health, call, peer)).catch_unwind().await;
    answered.unwrap_or_else(|_| {
        thread.view.shared().metrics.panic();
        Status::new(Code::Internal, "an internal error").into_http()
    })
}
