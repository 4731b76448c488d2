//! [`RedisStore`]: the store contract over all partitions.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use ratelimit_core::store::{Charge, Verdict};
use ratelimit_core::{Key, Store, StoreError, StoreErrorKind};
use tokio::sync::mpsc;

use crate::config::Builder;
use crate::notes::{Forgotten, Operation};
use crate::partition::Partition;
use crate::partitions::Partitions;
use crate::reserve::Spread;
use crate::shared::{Shared, Troubles};

/// Keeps limits in Redis or Valkey, where all replicas share them.
///
/// ```no_run
/// use ratelimit_core::{Limit, Limiter};
/// use ratelimit_redis::RedisStore;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = Limiter::new(RedisStore::connect("redis://127.0.0.1:6379").await?);
/// let per_user = Limit::new("per-user", "100/s".parse()?).burst(200);
/// assert!(limiter.check(&per_user, "ann").await?.is_allowed());
/// # Ok(())
/// # }
/// ```
pub struct RedisStore {
    which: Partitions,
    /// The only one, unless the store is a Cluster.
    first: Partition,
    more: Box<[Partition]>,
    under_leases: bool,
    /// To the task of the first one, which has the notes.
    operations: mpsc::Sender<Operation>,
    pub(crate) deadline: Duration,
}

impl RedisStore {
    /// Connects to `redis://[user:password@]host[:port][/database]`, `rediss://…` (TLS) or `unix:///path`, with
    /// the defaults of [`RedisStore::builder`].
    ///
    /// # Errors
    /// When the address can't be read, or the store can't be reached or refuses us.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::builder(url).connect().await
    }

    /// Everything that can be set, with its default.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::new(vec![url.into()])
    }

    pub(crate) fn over(
        which: Partitions,
        first: Partition,
        more: Box<[Partition]>,
        operations: mpsc::Sender<Operation>,
        deadline: Duration,
    ) -> Self {
        for other in &more {
            let shared = Arc::clone(other.shared());
            first.shared().known.listen(move |what| match what {
                Forgotten::Key { digest, .. } => shared.denied.forget(&digest),
                Forgotten::All => shared.denied.forget_all(),
            });
        }
        Self { which, first, more, under_leases: false, operations, deadline }
    }

    /// What is known by the task that has the notes.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        self.first.shared()
    }

    pub(crate) fn operations(&self) -> &mpsc::Sender<Operation> {
        &self.operations
    }

    /// The same, where pieces of its time lines are leased out.
    pub(crate) fn under_leases(self) -> Self {
        Self { under_leases: true, ..self }
    }

    /// Whether the store answers, as far as is known: in a Cluster, every node that has keys of ours.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.partitions().all(Partition::is_up)
    }

    /// By how many replicas a local share is divided at the moment.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.partitions().map(Partition::replicas).max().unwrap_or(1)
    }

    /// What went wrong so far.
    #[must_use]
    pub fn troubles(&self) -> Troubles {
        self.partitions().map(Partition::troubles).fold(Troubles::default(), Troubles::and)
    }

    /// Waits until everything that was posted before is made: before a process ends. Bounded by nothing but the
    /// store's troubles, so put a time limit around it.
    ///
    /// # Errors
    /// When the store is gone, or goes: what it was not told is lost.
    pub async fn flush(&self) -> Result<(), StoreError> {
        try_join_all(self.partitions().map(Partition::flush)).await.map(drop)
    }

    /// What the policy for a store that can't be reached says of these charges, without asking it: for who can't
    /// wait for its answer any longer. What the store was asked before may be charged there as well.
    ///
    /// # Errors
    /// When the policy is to say so.
    pub fn decide_without(&self, charges: &[Charge<'_>]) -> Result<Verdict, StoreError> {
        let late = || StoreError::new(StoreErrorKind::Timeout, "nobody waited for a decision");
        match self.spread(charges) {
            Ok(partition) => partition.without_store(charges, late()),
            Err(several) => several.without_store(late),
        }
    }

    fn partitions(&self) -> impl Iterator<Item = &Partition> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// The partition of a key.
    pub(crate) fn home(&self, key: Key<'_>) -> &Partition {
        let number = self.which.of(key);
        number.checked_sub(1).and_then(|more| self.more.get(more)).unwrap_or(&self.first)
    }

    /// The partition of all charges, if it is one; else who decides about several.
    pub(crate) fn spread<'s, 'c>(
        &'s self,
        charges: &'s [Charge<'c>],
    ) -> Result<&'s Partition, Box<Spread<'s, 'c>>> {
        if self.more.is_empty() {
            return Ok(&self.first);
        }
        let Some((charge, others)) = charges.split_first() else { return Ok(&self.first) };
        let home = self.home(charge.key);
        if others.iter().all(|other| std::ptr::eq(self.home(other.key), home)) {
            return Ok(home);
        }
        Err(Box::new(Spread::new(charges, self.under_leases, |key| self.home(key))))
    }
}

impl Store for RedisStore {
    fn try_decide(&self, charges: &[Charge<'_>]) -> Option<Verdict> {
        match self.spread(charges) {
            Ok(partition) => partition.try_decide(charges),
            Err(several) => several.known(),
        }
    }

    async fn decide(&self, charges: &[Charge<'_>]) -> Result<Verdict, StoreError> {
        match self.spread(charges) {
            Ok(partition) => partition.decide(charges).await,
            Err(several) => several.decide().await,
        }
    }

    fn post(&self, charge: Charge<'_>) {
        self.home(charge.key).post(charge);
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("is_up", &self.is_up())
            .field("partitions", &self.which.number())
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
