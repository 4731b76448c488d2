//! [`GrantSource`]: the shared store, as leases need it.

use std::time::Duration;

use ratelimit_core::algorithm::Receipt;
use ratelimit_core::store::{Charge, Verdict};
use ratelimit_core::{Key, Limit, Store, StoreError, StoreErrorKind};

use super::{Ask, Reply, Ticks};

/// A store that decides strictly, and gives leases.
///
/// # The contract
/// A lease of g units is one charge of g units, made if all of them are there; how many is for
/// [`grant`](super::grant::grant) to say. The reply tells the store's time at the charge and the level after it,
/// rounded down if at all. T is that of [`Terms`](super::Terms).
pub trait GrantSource: Store {
    /// Asks for a lease on a key of a limit that has [`Terms`](super::Terms). Never waits longer than the
    /// store's deadline; dropping the future charges at most once.
    ///
    /// # Errors
    /// When the store can't answer. What it may have granted is lost then, and lapses.
    fn lease(
        &self,
        limit: &Limit,
        key: Key<'_>,
        ask: &Ask,
    ) -> impl Future<Output = Result<Reply, StoreError>> + Send;

    /// Where on the store's time line a strict charge of a token bucket ended, by its receipt. What is refunded
    /// of such a charge can be spent here then, without moving a time line on which others hold leases.
    fn end_of(&self, receipt: Receipt) -> Option<Ticks> {
        let _ = receipt;
        None
    }

    /// How long a decision waits at most, whatever it waits for; `None`: as long as it takes.
    fn deadline(&self) -> Option<Duration> {
        None
    }

    /// The answer to charges that waited for a lease until the deadline, or whose question failed; `None` asks
    /// [`Store::decide`].
    fn without(&self, charges: &[Charge<'_>], kind: StoreErrorKind) -> Option<Result<Verdict, StoreError>> {
        let _ = (charges, kind);
        None
    }
}

impl<S: GrantSource> GrantSource for std::sync::Arc<S> {
    fn lease(
        &self,
        limit: &Limit,
        key: Key<'_>,
        ask: &Ask,
    ) -> impl Future<Output = Result<Reply, StoreError>> + Send {
        (**self).lease(limit, key, ask)
    }

    fn end_of(&self, receipt: Receipt) -> Option<Ticks> {
        (**self).end_of(receipt)
    }
    fn deadline(&self) -> Option<Duration> {
        (**self).deadline()
    }

    fn without(&self, charges: &[Charge<'_>], kind: StoreErrorKind) -> Option<Result<Verdict, StoreError>> {
        (**self).without(charges, kind)
    }
}
