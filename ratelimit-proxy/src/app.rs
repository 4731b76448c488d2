//! The running proxy: a [`Config`] made into threads that serve, and their orderly end.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use ratelimit_redis::OnFailure;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::admin::{Admin, View};
use crate::config::{Config, LimitConfig, Match, RedisConfig, StoreConfig};
use crate::doubts;
use crate::overload;
use crate::reload::{Reloader, Source, follow};
use crate::rls::Rls;
use crate::server::descriptors::Connections;
use crate::server::ports::cannot_listen;
use crate::server::tls;
use crate::server::{Drained, Listeners, Server};
use crate::state::Shared;
use crate::steer::Steering;
use crate::store::AnyStore;
use crate::supervise::keep;
use crate::telemetry::otlp::Otlp;

/// How long the last words to the store may take at least, even where draining took all its time.
const FLUSH: Duration = Duration::from_millis(500);

/// A proxy with its administration, serving.
pub(crate) struct App {
    server: Server,
    admin: Option<Admin>,
    rls: Option<Rls>,
    otlp: Option<Otlp>,
    view: Arc<View>,
    drain: Duration,
    /// The store that is shared with other replicas.
    redis: Option<Box<RedisConfig>>,
}

impl App {
    /// Listens everywhere it has to, or nowhere; then serves. What has a source can be read again from there.
    ///
    /// # Errors
    /// When an address can't be listened on, a thread can't be started, or the store refuses us; the text names it.
    pub(crate) async fn start(mut config: Config, source: Option<Source>) -> io::Result<Self> {
        let asked = config.clone();
        let threads = config.server.threads.unwrap_or_else(processors);
        let wanted = config.server.max_connections;
        let connections = Connections::ask(wanted, threads);
        config.server.max_connections = connections.clients;
        let admin = config.admin.map(bind).transpose()?;
        let rls = config.rls.clone().map(|rls| Ok::<_, io::Error>((bind(rls.listen)?, rls))).transpose()?;
        let listeners = Listeners::bind(&config.listen, threads)?;
        let store = AnyStore::open(&config.store).await.map_err(io::Error::other)?;
        let shared = Arc::new(Shared::new(&config, store));
        config.jwt.clone().map(|jwt| shared.verify_tokens(jwt)).transpose()?;
        overload::watch(&shared)?;
        doubts::watch(&shared)?;
        shared.watch_upstreams()?;
        let redis = match config.store {
            StoreConfig::Memory(_) => None,
            StoreConfig::Redis(redis) => Some(redis),
        };
        let steering = Steering::open(&shared, &asked).await?;
        let reloader =
            source.map(|source| Reloader::new(Arc::clone(&shared), source, asked, listeners.ports()));
        let view = Arc::new(View::new(Arc::clone(&shared), reloader, steering, redis.clone()));
        let otlp = config.otlp.as_ref().zip(shared.outbox.as_ref());
        let otlp = otlp.map(|(config, outbox)| Otlp::start(config, &view, outbox)).transpose()?;
        let token = config.operators.token.clone();
        let start = |listener| Admin::start(listener, &view, token, connections.operators);
        let admin = admin.map(start).transpose()?;
        let rls = rls.map(|(listener, rls)| Rls::start(listener, &view, &rls, threads)).transpose()?;
        let server = Server::start(&shared, listeners)?;
        if connections.clients < wanted {
            let served = connections.clients;
            tracing::warn!(wanted, served, "too few file descriptors for all connections: see ulimit -n");
        }
        view.ready(true);
        Ok(Self { server, admin, rls, otlp, view, drain: config.server.drain, redis })
    }

    /// Where clients connect.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.server.addresses()
    }

    /// Where operators connect.
    pub(crate) fn admin(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// What operators see.
    pub(crate) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Says to the log what listens where, and which limits hold.
    pub(crate) fn announce(&self) {
        for address in self.server.ports().urls() {
            tracing::info!(%address, "listening");
        }
        let rules = self.view.rules();
        for group in rules.upstreams.groups() {
            let servers: Vec<_> = group.servers.iter().map(|server| server.target.to_string()).collect();
            tracing::info!(upstream = servers.join(", "), on = &*group.name, "forwarding");
        }
        if let Some(address) = self.admin() {
            tracing::info!(address = %format_args!("http://{address}"), "administration");
        }
        if let Some(rls) = &self.rls {
            let scheme = if rls.tls().is_some() { "https" } else { "http" };
            tracing::info!(address = %format_args!("{scheme}://{}", rls.address()), "rate-limit service");
        }
        if let Some(redis) = &self.redis {
            let consistency = if redis.leases.is_some() { "leased" } else { "strict" };
            tracing::info!(servers = %redis.servers, prefix = redis.prefix, consistency, "counters are shared");
            if !self.view.shared().store.is_up() {
                let meanwhile = match redis.on_failure {
                    OnFailure::Allow => "everything is allowed",
                    OnFailure::Deny => "everything is refused",
                    _ => "this replica decides by itself",
                };
                tracing::warn!(meanwhile, "the store can't be reached");
            }
        }
        if rules.limits.is_empty() {
            tracing::warn!("no limits: everything is forwarded");
        }
        for config in rules.limits.iter() {
            let LimitConfig { limit, off, .. } = config;
            let spec = limit.spec();
            tracing::info!(
                name = limit.name(),
                algorithm = %spec.algorithm,
                rate = spec.rate.map(tracing::field::display),
                capacity = limit.capacity(),
                by = by(config),
                on = on(config),
                mode = View::mode(limit, *off),
                "limit"
            );
        }
    }

    /// Follows what the configuration's source and certificates say, and what other replicas do, until dropped.
    pub(crate) async fn follow(&self) -> Infallible {
        let metrics = &self.view.shared().metrics;
        let rls = self.rls.as_ref().and_then(Rls::tls);
        let all = || -> Vec<_> { self.server.ports().tls().into_iter().chain(rls.cloned()).collect() };
        let certificates = keep("certificates", metrics, || tls::follow(&all, metrics));
        tokio::select! {
            never = follow(self.view.reloader()) => never,
            never = certificates => never,
            never = self.view.steering().follow() => never,
        }
    }

    /// Takes nothing new, lets what is under way finish, lets the store know of what that charged or gave back,
    /// and ends the administration last. `hurry` ends the waiting. It begins at the call, not at the first poll.
    ///
    /// # Errors
    /// When a thread failed while it served.
    pub(crate) fn stop(self, hurry: impl Future<Output = ()>) -> impl Future<Output = io::Result<Drained>> {
        let Self { server, view, admin, rls, otlp, drain, .. } = self;
        let (closer, until) = (server.closer(), Instant::now() + drain);
        let draining = server.drain(drain);
        view.ready(false);
        if let Some(rls) = &rls {
            rls.stop();
        }
        async move {
            let mut draining = std::pin::pin!(draining);
            let drained = tokio::select! {
                drained = &mut draining => drained,
                () = hurry => {
                    closer.close();
                    draining.await
                }
            };
            if let Some(rls) = rls {
                rls.join();
            }
            let left = until.saturating_duration_since(Instant::now()).max(FLUSH);
            if !view.shared().store.flush(left).await {
                tracing::warn!("the store could not be told of everything that was charged or given back");
            }
            if let Some(otlp) = otlp {
                otlp.stop();
            }
            if let Some(admin) = admin {
                admin.stop();
            }
            drained
        }
    }
}

/// The signals that end the process.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes them over; from here on they no longer kill.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one and says which.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// What a limit counts by, in words.
pub(crate) fn by(config: &LimitConfig) -> String {
    let key: Vec<_> = config.key.iter().map(ToString::to_string).collect();
    if key.is_empty() { "all together".to_owned() } else { key.join(", ") }
}

/// Which methods and paths a limit applies to, in words; there may be more conditions.
pub(crate) fn on(config: &LimitConfig) -> String {
    let Match { path, methods, .. } = &config.matches;
    let mut words: Vec<_> = methods.iter().map(ToString::to_string).collect();
    words.extend(path.iter().map(ToString::to_string));
    if words.is_empty() { "everything".to_owned() } else { words.join(" ") }
}

/// One listener, for a thread of its own.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).map_err(|error| cannot_listen(address, &error))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}
