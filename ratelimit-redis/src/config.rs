//! [`Builder`]: everything about the store that can be set, with its default and the reason for it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ratelimit_core::{Nanos, StoreError, StoreErrorKind};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::calls::{Call, Observer};
use crate::dispatch::{Dispatcher, Settings};
use crate::health::Health;
use crate::keys::Names;
use crate::notes;
use crate::partition::Partition;
use crate::partitions::{Partitions, slot};
use crate::shared::Shared;
use crate::store::RedisStore;
use crate::topology::Topology;

/// Requests that may wait for the store. At 400 000 a second that is 20 ms of work: more would only wait for
/// their deadline.
const QUEUE: usize = 8192;
/// Letters of a prefix.
const PREFIX: usize = 64;

/// What is answered when the store can't.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFailure {
    /// Each replica decides by itself, with its share of the quota, beginning at one unit.
    #[default]
    Local,
    /// Everything is admitted.
    Allow,
    /// Everything is denied.
    Deny,
    /// [`Store::decide`](ratelimit_core::Store::decide) returns the error.
    Error,
}

/// An address, which may hold a password and is never shown.
#[derive(Clone)]
struct Url(String);

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Url")
    }
}

/// Builds a [`RedisStore`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    urls: Vec<Url>,
    sentinel_master: Option<String>,
    prefix: String,
    deadline: Duration,
    on_failure: OnFailure,
    replicas: Option<u32>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    tls: crate::topology::Tls,
    permit_expiry: Duration,
    start_degraded: bool,
    queue: usize,
    runtime: Option<Handle>,
    observer: Option<Observer>,
    partitions: Option<Partitions>,
}

impl Builder {
    pub(crate) fn new(urls: Vec<String>) -> Self {
        Self {
            urls: urls.into_iter().map(Url).collect(),
            sentinel_master: None,
            prefix: "rl".to_owned(),
            deadline: Duration::from_millis(50),
            on_failure: OnFailure::default(),
            replicas: None,
            username: None,
            password_file: None,
            tls: crate::topology::Tls::default(),
            permit_expiry: Duration::from_secs(10),
            start_degraded: false,
            queue: QUEUE,
            runtime: None,
            observer: None,
            partitions: None,
        }
    }

    /// What every key in the store begins with; `rl` by default. Limiters that must not share counters need
    /// different ones. 1 to 64 of `A–Z a–z 0–9 _ . - :`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The longest a decision may wait for the store, connecting included; 50 ms by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What is answered when the store can't; [`OnFailure::Local`] by default.
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }

    /// How many replicas share the store, by which the local share is divided. Learnt from the store by
    /// default: the most there were in the last minute.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = Some(replicas);
        self
    }

    /// The user to log in as, if the address names none.
    pub fn username(mut self, name: impl Into<String>) -> Self {
        self.username = Some(name.into());
        self
    }

    /// A file with the password, read again for every connection.
    pub fn password_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.password_file = Some(path.into());
        self
    }

    /// A file in PEM format with the authorities to trust, instead of the system's. For `rediss://`.
    pub fn tls_authority(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.authority = Some(path.into());
        self
    }

    /// Files in PEM format with the certificate and the key that this client shows. For `rediss://`.
    pub fn tls_identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.identity = Some((certificate.into(), key.into()));
        self
    }

    /// More nodes of the same Cluster; more than one address means a Cluster.
    pub fn nodes(mut self, urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.urls.extend(urls.into_iter().map(|url| Url(url.into())));
        self
    }

    /// The addresses are those of Sentinels, which are asked for the master of that name.
    pub fn sentinel_master(mut self, name: impl Into<String>) -> Self {
        self.sentinel_master = Some(name.into());
        self
    }

    /// After which the permits of a replica that is gone come back; 10 s by default, at least 1 s. A replica
    /// that lives renews them three times as often.
    pub fn permit_expiry(mut self, expiry: Duration) -> Self {
        self.permit_expiry = expiry.max(Duration::from_secs(1));
        self
    }

    /// Whether to start although the store can't be reached, with what [`Builder::on_failure`] says until it
    /// can; by default it is an error. A store that refuses us is an error in any case.
    pub fn start_degraded(mut self, start: bool) -> Self {
        self.start_degraded = start;
        self
    }

    /// How many requests may wait for the store; 8192 by default. What comes beyond does not wait: it is answered
    /// as [`Builder::on_failure`] says.
    pub fn queue(mut self, requests: usize) -> Self {
        self.queue = requests.clamp(1, 1 << 20);
        self
    }

    /// Into how many parts the keys are cut so that the nodes of a Cluster share the work, 1 to 255; 16 by default
    /// in a Cluster, which is fair for up to eight nodes, and 1 elsewhere.
    ///
    /// A request whose keys lie in one part is decided in one step. Limits that count by the same key always do.
    /// One whose keys lie in several is charged in each and given back when one refuses: that never admits more,
    /// and may deny a competitor for the length of a round trip. With 1, all keys are on one node, and every
    /// request is decided in one step.
    ///
    /// All replicas need the same number. Changing it is a fresh burst for every key.
    pub fn partitions(mut self, number: std::num::NonZero<u8>) -> Self {
        self.partitions = Some(Partitions::new(number));
        self
    }

    /// Runs the task that owns the connection on that runtime, which must have I/O and time enabled. By default
    /// it has a thread of its own: callers on any runtime, or on many, meet there.
    pub fn runtime(mut self, handle: Handle) -> Self {
        self.runtime = Some(handle);
        self
    }

    /// Calls `tell` after each call of the store, from the task that makes it: one at a time, unless
    /// the store is a Cluster and [`Builder::runtime`] one of several threads. It must be quick.
    pub fn observe(mut self, tell: impl Fn(&Call) + Send + Sync + 'static) -> Self {
        self.observer = Some(Observer::new(tell));
        self
    }

    /// Finds what is wrong with the settings, without connecting or reading a file.
    ///
    /// # Errors
    /// When a setting is wrong. No address is part of what is shown, since it may hold a password.
    pub fn check(&self) -> Result<(), StoreError> {
        self.topology().map(drop)
    }

    fn topology(&self) -> Result<Topology, StoreError> {
        let wrong = |what: &'static str| StoreError::new(StoreErrorKind::Misconfigured, what);
        let proper = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | ':');
        if self.prefix.is_empty() || self.prefix.len() > PREFIX || !self.prefix.chars().all(proper) {
            return Err(wrong("a prefix is 1 to 64 of A-Z a-z 0-9 _ . - :"));
        }
        if self.deadline.is_zero() {
            return Err(wrong("the deadline is zero"));
        }
        let mut topology = Topology::of(self.urls.iter().map(|url| url.0.as_str()))?;
        topology.sentinel_master.clone_from(&self.sentinel_master);
        topology.username.clone_from(&self.username);
        topology.password_file.clone_from(&self.password_file);
        topology.tls = self.tls.clone();
        Ok(topology)
    }

    /// Connects.
    ///
    /// # Errors
    /// When a setting is wrong, or the store can't be reached or refuses us.
    pub async fn connect(self) -> Result<RedisStore, StoreError> {
        let topology = self.topology()?;
        let usual = if topology.is_cluster() { Partitions::CLUSTER } else { Partitions::ONE };
        let which = self.partitions.unwrap_or(usual);
        let (replica, health) = (fastrand::u64(..).to_le_bytes(), Health::default());
        let mut operations = None;
        let (mut partitions, mut tasks, mut first) = (Vec::new(), Vec::new(), Vec::new());
        for tag in which.tags() {
            let settings = Settings {
                topology: topology.clone(),
                slot: slot(&tag),
                standing: health.partition(),
                names: Names::new(&self.prefix, &tag),
                deadline: self.deadline,
                permit_expiry: Nanos::from(self.permit_expiry),
                replica,
                observer: self.observer.clone(),
            };
            let shared = Arc::new(Shared::new(self.replicas));
            let (requests, queue) = mpsc::channel(self.queue.div_ceil(which.number()));
            let (operate, notes) = notes::queue();
            // Notes are the first one's.
            operations.get_or_insert(operate);
            let (ready, connected) = oneshot::channel();
            first.push(connected);
            partitions.push(Partition::new(requests, Arc::clone(&shared), self.deadline, self.on_failure));
            tasks.push(move || Dispatcher::new(settings, shared, queue, notes, ready).run());
        }
        match self.runtime {
            Some(handle) => {
                tasks.into_iter().for_each(|task| drop(handle.spawn(async move { task().await })))
            }
            None => spawn_thread(move || join_all(tasks.into_iter().map(|task| task())))?,
        }
        let (mut misconfigured, mut unreached) = (None, None);
        for connected in first {
            let connected = connected.await.unwrap_or_else(|_| {
                Err(StoreError::new(StoreErrorKind::Unavailable, "the store's task ended at once"))
            });
            match connected {
                Err(error) if error.kind() == StoreErrorKind::Misconfigured => misconfigured = Some(error),
                Err(error) => unreached = Some(error),
                Ok(()) => {}
            }
        }
        if let Some(error) = misconfigured.or(unreached.filter(|_| !self.start_degraded)) {
            return Err(error);
        }
        let mut partitions = partitions.into_iter();
        let none = || StoreError::new(StoreErrorKind::Misconfigured, "the store has no partition");
        let (first, operations) = partitions.next().zip(operations).ok_or_else(none)?;
        Ok(RedisStore::over(which, first, partitions.collect(), operations, self.deadline))
    }
}

/// A thread with a runtime of its own, which ends with the store.
fn spawn_thread<F: Future>(dispatcher: impl FnOnce() -> F + Send + 'static) -> Result<(), StoreError> {
    let failed = |error| {
        StoreError::new(StoreErrorKind::Unavailable, "no thread for the store").with_source(Box::new(error))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let run = move || {
        runtime.block_on(async move { dispatcher().await });
    };
    std::thread::Builder::new().name("ratelimit-redis".to_owned()).spawn(run).map(drop).map_err(failed)
}
