//! The contract between limits and whatever keeps their state.
//!
//! A store answers at two speeds: [`Store::try_decide`] without waiting, whenever this process can, and
//! [`Store::decide`] after asking elsewhere. Operations are data ([`Op`]), so a store implements one function
//! and a remote one needs one round trip. `ratelimit_core::testing` (feature `testing`) judges any
//! implementation.

mod memory;

pub use memory::{MemoryStore, Overflow};

use smallvec::SmallVec;

use crate::algorithm::{Op, Outcome};
use crate::error::StoreError;
use crate::key::Key;
use crate::limit::Limit;

/// One operation on one key of one limit.
#[derive(Clone, Copy, Debug)]
pub struct Charge<'a> {
    /// Which limit.
    pub limit: &'a Limit,
    /// Which of its keys.
    pub key: Key<'a>,
    /// What to do.
    pub op: Op,
}

/// A store's answer to several charges, decided together.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Whether every limit that enforces admits. If not, nothing was charged.
    pub admitted: bool,
    /// Who answered.
    pub origin: Origin,
    /// What each limit said, in the order of the charges.
    pub outcomes: Outcomes,
}

impl Verdict {
    /// Room for an answer: nothing asked, nothing admitted.
    #[must_use]
    pub fn empty() -> Self {
        Self { admitted: false, origin: Origin::Store, outcomes: Outcomes::new() }
    }
}

/// One outcome for each charge; no allocation for up to four.
pub type Outcomes = SmallVec<[Outcome; 4]>;

/// Who answered a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The store.
    #[default]
    Store,
    /// A lease of the shared store's, in this process.
    Lease,
    /// The memory of an earlier denial.
    Known,
    /// This process alone, because the shared store is gone.
    Local,
    /// Nobody: the store is gone and the request is let through.
    FailedOpen,
    /// Nobody: the store is gone and the request is refused.
    FailedClosed,
}

/// Keeps the state of limits.
///
/// # The contract
/// * The conditional charges of one call are decided together: all are made or none. A limit in shadow mode
///   never stops the others, and is charged when it and all others admit.
/// * Unconditional charges (debit, refund, reset) are made if the conditional ones of the call are admitted.
/// * A refused call changes nothing.
/// * The same key of the same limit may occur twice in a call; both are charged.
/// * Limits of equal [id](Limit::id) and algorithm share their state.
pub trait Store: Send + Sync + 'static {
    /// Answers without waiting where this process can; `None` asks the caller to `decide`.
    fn try_decide(&self, charges: &[Charge<'_>]) -> Option<Verdict>;

    /// As `try_decide`, writing the answer where the caller has room for it: it is too large to be moved about for
    /// nothing. Returns whether there is one.
    #[inline]
    fn try_decide_into(&self, charges: &[Charge<'_>], verdict: &mut Verdict) -> bool {
        match self.try_decide(charges) {
            Some(answer) => {
                *verdict = answer;
                true
            }
            None => false,
        }
    }

    /// As `try_decide`, waiting for the shared store, never longer than its deadline. Dropping the future
    /// charges at most once.
    ///
    /// # Errors
    /// When the store can't answer and its policy for that case is to say so.
    fn decide(&self, charges: &[Charge<'_>]) -> impl Future<Output = Result<Verdict, StoreError>> + Send;

    /// Makes one charge that nobody waits for: a debit after the response, a refund, a released permit. Never
    /// blocks, so that it can be called where something is dropped.
    fn post(&self, charge: Charge<'_>);
}

/// A store that always answers at once, because it is in this process.
pub trait LocalStore: Store {
    /// Decides several charges together.
    fn decide_now(&self, charges: &[Charge<'_>]) -> Verdict;

    /// As [`LocalStore::decide_now`], writing the answer where the caller has room for it: it is too large to be
    /// moved about for nothing.
    fn decide_into(&self, charges: &[Charge<'_>], verdict: &mut Verdict) {
        *verdict = self.decide_now(charges);
    }

    /// Decides a single charge; whether a shadow limit denies is for the caller to see.
    fn decide_one(&self, charge: Charge<'_>) -> Outcome {
        let verdict = self.decide_now(&[charge]);
        verdict.outcomes.first().copied().unwrap_or(Outcome::refused(0, None))
    }
}

impl<S: Store> Store for std::sync::Arc<S> {
    fn try_decide(&self, charges: &[Charge<'_>]) -> Option<Verdict> {
        (**self).try_decide(charges)
    }

    fn try_decide_into(&self, charges: &[Charge<'_>], verdict: &mut Verdict) -> bool {
        (**self).try_decide_into(charges, verdict)
    }

    fn decide(&self, charges: &[Charge<'_>]) -> impl Future<Output = Result<Verdict, StoreError>> + Send {
        (**self).decide(charges)
    }

    fn post(&self, charge: Charge<'_>) {
        (**self).post(charge);
    }
}

impl<S: LocalStore> LocalStore for std::sync::Arc<S> {
    fn decide_now(&self, charges: &[Charge<'_>]) -> Verdict {
        (**self).decide_now(charges)
    }

    fn decide_into(&self, charges: &[Charge<'_>], verdict: &mut Verdict) {
        (**self).decide_into(charges, verdict);
    }

    fn decide_one(&self, charge: Charge<'_>) -> Outcome {
        (**self).decide_one(charge)
    }
}
