//! Reading the configuration again while it is in force: after SIGHUP, when the file changes, when an operator asks.
//! A configuration that holds replaces the rules as a whole; one that does not changes nothing, and says why.
//!
//! Counters, connections and permits live on: stores know limits by their names. So do keys of tokens, where `jwt` says what it
//! said; another source has to have keys first. Listeners come and go, and
//! connections that are there stay. What belongs to threads and the store itself can't change while they run; it is
//! kept, and said to be.
//!
//! The file is asked for its state once a second rather than watched. That is one call of the system, works on
//! every file system and through any chain of symbolic links (Kubernetes swaps one in the middle of the path, and
//! a watch on the file would never hear of it), and has no limit that other programs could use up. A change counts
//! once the file has been left alone for a moment, so that half a file is not read.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::config::{Config, ConfigFault, Loaded, OtlpConfig};
use crate::identity::token::{JwtConfig, TokenVerifier};
use crate::server::ports::Ports;
use crate::stamp::{LOOK, SETTLED, Stamp};
use crate::state::Shared;
use crate::supervise;
use crate::telemetry::metrics::Reloaded;

/// Least time between two attempts: what comes meanwhile is one.
const GAP: Duration = Duration::from_millis(250);

/// How long keys of tokens may take to come. Operators wait meanwhile, requests do not.
const PATIENCE: Duration = Duration::from_secs(3);

/// What makes a configuration anew.
type Load = dyn Fn() -> Result<Loaded, Vec<ConfigFault>> + Send + Sync;

/// Where a configuration comes from, so that it can be read again.
pub(crate) struct Source {
    path: PathBuf,
    load: Box<Load>,
    /// How the file was when it was read.
    stamp: Option<Stamp>,
}

impl Source {
    /// A file, and what makes a configuration of it. To be made before the file is read for the first time.
    pub(crate) fn new(
        path: PathBuf,
        load: impl Fn() -> Result<Loaded, Vec<ConfigFault>> + Send + Sync + 'static,
    ) -> Self {
        let stamp = Stamp::of(&path);
        Self { path, load: Box::new(load), stamp }
    }
}

/// What came of an attempt.
pub(crate) type Outcome = Result<Applied, Vec<String>>;

/// A configuration that is in force now.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    /// How many limits it has.
    pub(crate) limits: usize,
    /// What it says otherwise and can't change before the next start.
    pub(crate) kept: Vec<&'static str>,
}

/// Reads a configuration again, one attempt at a time.
pub(crate) struct Reloader {
    shared: Arc<Shared>,
    source: Source,
    /// As it was started.
    running: Config,
    ports: Arc<Ports>,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    stamp: Option<Stamp>,
    attempt: Option<(Instant, Outcome)>,
}

impl Reloader {
    /// For a proxy that was started with that configuration from there.
    pub(crate) fn new(shared: Arc<Shared>, source: Source, running: Config, ports: Arc<Ports>) -> Self {
        let last = Last { stamp: source.stamp, attempt: None };
        Self { shared, source, running, ports, last: Mutex::new(last) }
    }

    /// Reads it again. What is asked for right after another attempt on the same file gets what that came to.
    pub(crate) fn ask(&self) -> Outcome {
        let last = self.last();
        if let Some((at, outcome)) = &last.attempt
            && at.elapsed() < GAP
            && last.stamp == Stamp::of(&self.source.path)
        {
            return outcome.clone();
        }
        self.attempt(last, "asked for")
    }

    /// Reads it again whenever the process is told to (SIGHUP) or the file changes.
    ///
    /// # Errors
    /// When the system refuses to tell of signals.
    async fn follow(&self) -> io::Result<Infallible> {
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            let why = tokio::select! {
                _ = hangup.recv() => "SIGHUP",
                () = self.changed() => "the file changed",
            };
            // What came of it is told and counted.
            let _ = self.attempt(self.last(), why);
            // Signals that come meanwhile are one.
            sleep(GAP).await;
        }
    }

    /// Waits until the file is another than the one that was read last, and has been for a moment.
    async fn changed(&self) {
        loop {
            sleep(LOOK).await;
            let mut stamp = Stamp::of(&self.source.path);
            // A file that is gone is about to be replaced.
            while stamp.is_some() && stamp != self.last().stamp {
                sleep(SETTLED).await;
                let settled = Stamp::of(&self.source.path);
                if settled == stamp {
                    return;
                }
                stamp = settled;
            }
        }
    }

    fn attempt(&self, mut last: MutexGuard<'_, Last>, why: &str) -> Outcome {
        // Before it is read, so that what changes while it is read is a change.
        last.stamp = Stamp::of(&self.source.path);
        let outcome = match &last.stamp {
            Some(_) => {
                (self.source.load)().map_err(|faults| faults.iter().map(ToString::to_string).collect())
            }
            None => Err(vec![format!("{}: there is no file to be read again", self.source.path.display())]),
        };
        let outcome = outcome.and_then(|loaded| self.apply(&loaded));
        match &outcome {
            Ok(Applied { limits, kept }) => {
                tracing::info!(why, limits, "the configuration was read again and is in force");
                if !kept.is_empty() {
                    tracing::warn!(what = kept.join(", "), "can't change before the next start");
                }
            }
            Err(faults) => {
                for fault in faults {
                    tracing::error!(fault, "the configuration is refused");
                }
                tracing::error!(why, faults = faults.len(), "the old configuration stays in force");
            }
        }
        let counted = if outcome.is_ok() { Reloaded::Applied } else { Reloaded::Refused };
        self.shared.metrics.reloaded(counted);
        last.attempt = Some((Instant::now(), outcome.clone()));
        outcome
    }

    fn apply(&self, loaded: &Loaded) -> Outcome {
        for warning in &loaded.warnings {
            tracing::warn!(%warning, "the configuration is likely wrong");
        }
        let config = &loaded.config;
        // What may fail comes first.
        let tokens = self.tokens(config.jwt.as_ref()).map_err(|why| vec![format!("jwt: {why}")])?;
        self.ports.replace(&config.listen).map_err(|error| vec![error.to_string()])?;
        let current = &self.shared.rules;
        self.shared.doubts.of_file(loaded.warnings.iter().map(ToString::to_string));
        current.replace(|old| old.next(config, tokens, &self.shared.metrics));
        Ok(Applied { limits: config.limits.len(), kept: kept(&self.running, config) })
    }

    /// Who verifies tokens as `wanted` says: the one who does so already, or another. Its keys must be there before it takes
    /// over: until they are, everybody would be without claims.
    fn tokens(&self, wanted: Option<&JwtConfig>) -> io::Result<Option<Arc<TokenVerifier>>> {
        let Some(wanted) = wanted else { return Ok(None) };
        let running = self.shared.rules.load().tokens.clone();
        if let Some(running) = running.filter(|running| running.is_for(wanted)) {
            return Ok(Some(running));
        }
        let other = TokenVerifier::start(wanted.clone(), &self.shared.metrics)?;
        if !other.wait(PATIENCE) {
            let why = format!("no keys were to be had within {} s", PATIENCE.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        Ok(Some(Arc::new(other)))
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the two say differently of what can't change while it runs.
fn kept(running: &Config, new: &Config) -> Vec<&'static str> {
    let (old, server) = (&running.server, &new.server);
    let listener =
        |config: &Config| config.rls.clone().map(|rls| (rls.listen, rls.tls, rls.max_connection_age));
    // Which requests are traced can change.
    let collector = |config: &Config| config.otlp.clone().map(|otlp| OtlpConfig { traces: None, ..otlp });
    let fixed = [
        ("admin", running.admin == new.admin && running.operators == new.operators),
        ("store", running.store == new.store),
        ("rls", listener(running) == listener(new)),
        ("otlp", collector(running) == collector(new)),
        ("server.threads", old.threads == server.threads),
        ("server.max_connections", old.max_connections == server.max_connections),
        (
            "server.max_connections_per_client",
            old.max_connections_per_client == server.max_connections_per_client,
        ),
        (
            "server.new_connections_per_client",
            old.new_connections_per_client == server.new_connections_per_client,
        ),
        ("server.max_memory", old.max_memory == server.max_memory),
        ("server.drain", old.drain == server.drain),
    ];
    fixed.into_iter().filter_map(|(name, same)| (!same).then_some(name)).collect()
}

/// Follows the configuration until dropped; without one there is nothing to be done.
pub(crate) async fn follow(reloader: Option<&Reloader>) -> Infallible {
    let Some(reloader) = reloader else { return std::future::pending().await };
    match supervise::keep("reload", &reloader.shared.metrics, || reloader.follow()).await {
        Ok(never) => never,
        Err(error) => {
            tracing::error!(%error, "the configuration is not read again by itself");
            std::future::pending().await
        }
    }
}
