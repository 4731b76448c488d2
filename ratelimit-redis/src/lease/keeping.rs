//! Keeps [`Spares`](super::spares::Spares) over the shared store: takes, gives back, and sees that nothing is kept for
//! ever.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use ratelimit_core::algorithm::{Op, Outcome, Receipt};
use ratelimit_core::store::Charge;
use ratelimit_core::time::Clock;
use ratelimit_core::{Algorithm, Key, Nanos};
use tokio::runtime::Handle;

use super::spares::{self, Back};
use super::store::{LeasedStore, Shared};
use super::{GrantSource, Id};

/// Whether a charge is about permits, which are held and given back.
pub(super) fn is_permits(charge: &Charge<'_>) -> bool {
    charge.limit.spec().algorithm == Algorithm::Concurrency
}

impl<S: GrantSource, C: Clock> LeasedStore<S, C> {
    /// Takes permits that are kept here, if the charge is about such.
    pub(super) fn kept(&self, charge: &Charge<'_>, now: Nanos) -> Option<(Id, u32, Outcome)> {
        let Op::Take(permits) = charge.op else { return None };
        if !is_permits(charge) {
            return None;
        }
        let id = self.0.table.id(charge.limit, charge.key);
        Some((id, permits, self.0.spares.take(id, charge.limit, permits, now)?))
    }

    /// Gives permits back, but for those that are kept for the next request.
    pub(super) fn release(&self, charge: Charge<'_>, permits: u32, receipt: Option<Receipt>) {
        let shared = &self.0;
        let id = shared.table.id(charge.limit, charge.key);
        let Ok(runtime) = Handle::try_current() else {
            // Nobody would see that they go back.
            shared.spares.gave_back(id, permits);
            return shared.source.post(Charge { op: Op::Refund(permits, receipt), ..charge });
        };
        let back = shared.spares.give_back(id, permits, shared.now());
        if back > 0 {
            shared.source.post(Charge { op: Op::Refund(back, receipt), ..charge });
        }
        if back < permits && !shared.sweeps.swap(true, Ordering::AcqRel) {
            runtime.spawn(sweep(Arc::downgrade(shared)));
        }
    }
}

impl<S: GrantSource, C: Clock> Shared<S, C> {
    /// Gives back what is kept and nobody took since `before`.
    pub(super) fn give_back_idle(&self, before: Nanos) {
        for Back { limit, key, permits } in self.spares.idle_since(before) {
            let op = Op::Refund(permits, None);
            self.source.post(Charge { limit: &limit, key: Key::from_canonical(&key), op });
        }
    }
}

/// Gives back what is kept and nobody takes, until nothing is kept.
async fn sweep<S: GrantSource, C: Clock>(shared: Weak<Shared<S, C>>) {
    loop {
        tokio::time::sleep(spares::LOOK.into()).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.give_back_idle(shared.now().saturating_sub(spares::IDLE));
        if shared.spares.kept_in_all() == 0 {
            shared.sweeps.store(false, Ordering::Release);
            // What was kept since the look before belongs to whoever says so first.
            if shared.spares.kept_in_all() == 0 || shared.sweeps.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }
}
