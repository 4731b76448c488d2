//! Charges that come after the fact, summed until they are sent.
//!
//! They are sent 50 ms after the first, or when there are many, or before the next question about their key. So
//! beyond the limit's bound only what all replicas admit within 50 ms can come.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ratelimit_core::algorithm::Op;
use ratelimit_core::store::{Charge, Store};
use ratelimit_core::{Key, Limit};

use super::Id;

/// For so long a charge waits at most.
pub(super) const DELAY: Duration = Duration::from_millis(50);
/// Charges of a key that are sent without waiting.
const MANY: u32 = 64;
/// Keys that can wait.
const KEYS: usize = 10_000;

struct Debt {
    limit: Limit,
    key: Vec<u8>,
    units: u32,
    charges: u32,
}

/// What is owed for each key.
#[derive(Default)]
pub(super) struct Debts(Mutex<HashMap<Id, Debt>>);

impl Debts {
    /// Adds a charge. Whether somebody has to see that it is sent, since it is the first that waits.
    pub(super) fn add(&self, id: Id, limit: &Limit, key: Key<'_>, units: u32, store: &impl Store) -> bool {
        let mut debts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = debts.is_empty();
        if debts.len() >= KEYS && !debts.contains_key(&id) {
            drop(debts);
            store.post(Charge { limit, key, op: Op::Debit(units) });
            return false;
        }
        let debt = debts.entry(id).or_insert_with(|| Debt {
            limit: limit.clone(),
            key: key.to_vec(),
            units: 0,
            charges: 0,
        });
        debt.units = debt.units.saturating_add(units);
        debt.charges += 1;
        let full = debt.charges >= MANY;
        drop(debts);
        if full {
            self.send(id, store);
        }
        first && !full
    }

    /// Sends what is owed for a key.
    pub(super) fn send(&self, id: Id, store: &impl Store) {
        let debt = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(debt) = debt {
            debt.post(store);
        }
    }

    /// Sends everything.
    pub(super) fn send_all(&self, store: &impl Store) {
        let debts = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        debts.into_values().for_each(|debt| debt.post(store));
    }
}

impl Debt {
    fn post(&self, store: &impl Store) {
        let key = Key::from_canonical(&self.key);
        store.post(Charge { limit: &self.limit, key, op: Op::Debit(self.units) });
    }
}
