//! [`Table`]: the leases of this process, shared by all its threads.
//!
//! Each hot key has an entry, behind whose lock the [`Lease`] decides; the lock is never held while anybody waits.
//! The number of entries is bounded; keys beyond it, and cold ones, are charged strictly.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::one::RefMut;
use foldhash::quality::RandomState;
use ratelimit_core::algorithm::{Outcome, Receipt};
use ratelimit_core::{Algorithm, Key, Limit, Nanos};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::cold::Cold;
use super::{Answer, Arrivals, Ask, Lease, Policy, Reply, Spent, Step, Terms, Ticks};

/// Between two searches for entries that nobody needs any more.
const SWEEP: Nanos = Nanos::from_secs(10);
/// Tells receipts of leases from the store's own.
const LEASED: u128 = 1 << 127;
/// Where their epoch begins: ticks since the Unix epoch have 72 bits for another two centuries.
const EPOCH: u32 = 80;

/// A key of a limit, under an algorithm: 128 bits of a hash that is keyed anew in each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id([u64; 2]);

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // It is one already; half of it finds the place, and all of it is compared there.
        let Self([first, _]) = self;
        state.write_u64(*first);
    }
}

/// What was spent out of a lease.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// What to tell the client.
    pub outcome: Outcome,
    /// To put it back.
    pub spent: Spent,
    /// Likewise.
    epoch: u32,
    /// A question to send now, off the request's way.
    pub refresh: Option<Ask>,
}

/// What a request comes to.
#[derive(Debug)]
pub enum Next {
    /// It is admitted.
    Taken(Taken),
    /// It is denied; the outcome says for how long.
    Denied(Outcome),
    /// Wait for this, then ask [`Table::again`].
    Wait(OwnedNotified),
    /// Send this; tell the answer to [`Table::answered`], or that there is none to [`Table::unanswered`].
    Ask(Ask),
    /// Charge it strictly.
    Strict,
}

struct Entry {
    lease: Lease,
    answered: Arc<Notify>,
}

/// The leases of this process.
pub struct Table {
    entries: DashMap<Id, Entry, foldhash::fast::RandomState>,
    hashers: [RandomState; 2],
    cold: Cold,
    policy: Policy,
    most: usize,
    swept: AtomicU64,
}

impl Table {
    /// With at most so many hot keys.
    #[must_use]
    pub fn new(policy: Policy, most: usize) -> Self {
        Self {
            entries: DashMap::default(),
            hashers: [RandomState::default(), RandomState::default()],
            cold: Cold::new(),
            policy,
            most,
            swept: AtomicU64::new(0),
        }
    }

    /// How large leases are asked for.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What a request for `units` of a limit's keys is decided by, if leases are of use for it.
    #[must_use]
    pub fn terms(&self, limit: &Limit, units: u32) -> Option<Terms> {
        let terms = Terms::of(limit)?;
        (self.policy.leases(&terms) && (1..=terms.capacity).contains(&units)).then_some(terms)
    }

    /// What tells the key apart.
    #[must_use]
    pub fn id(&self, limit: &Limit, key: Key<'_>) -> Id {
        self.id_of(limit.id().get(), limit.spec().algorithm, key)
    }

    fn id_of(&self, limit: u64, algorithm: Algorithm, key: Key<'_>) -> Id {
        let (lead, rest) = key.parts();
        // A change of the algorithm is a fresh start.
        let algorithm = match algorithm {
            Algorithm::TokenBucket => 0,
            Algorithm::SlidingWindow => 1,
            Algorithm::FixedWindow => 2,
            _ => 3,
        };
        Id(self.hashers.each_ref().map(|state| {
            let mut hasher = state.build_hasher();
            hasher.write_u64(limit);
            hasher.write_u32(u32::from(u16::from_le_bytes(lead)) << 8 | algorithm);
            hasher.write(rest);
            hasher.finish()
        }))
    }

    /// Admits or denies a request for `units` of a limit's key where that needs no call; counts it if so.
    #[must_use]
    pub fn at_once(&self, id: Id, now: Nanos, units: u32, limit: &Limit) -> Option<Next> {
        let mut entry = self.entries.get_mut(&id)?;
        let lease = &mut entry.lease;
        let step = match lease.terms().are_of(limit) && (1..=limit.capacity()).contains(&units) {
            true => lease.under_the_same_terms(now, units, &self.policy)?,
            false => lease.at_once(now, units, &self.terms(limit, units)?, &self.policy)?,
        };
        lease.count(units);
        Some(self.next(entry, now, step))
    }

    /// A request comes in that `at_once` has no answer to.
    #[must_use]
    pub fn arrive(&self, id: Id, now: Nanos, units: u32, terms: &Terms) -> Next {
        if let Some(mut entry) = self.entries.get_mut(&id) {
            let step = entry.lease.arrive(now, units, terms, &self.policy);
            return self.next(entry, now, step);
        }
        let Some(rate) = self.is_hot(id, now, units, terms) else { return Next::Strict };
        let entry =
            || Entry { lease: Lease::new(*terms, Arrivals::beginning(now, rate)), answered: Arc::default() };
        let mut entry = self.entries.entry(id).or_insert_with(entry);
        let step = entry.lease.again(now, units, terms, &self.policy);
        self.next(entry, now, step)
    }

    /// The rate of a key that is worth an entry, where there is room for one.
    fn is_hot(&self, id: Id, now: Nanos, units: u32, terms: &Terms) -> Option<super::PerMicro> {
        let (shortest, quiet) = self.policy.measuring(terms);
        let Id([hash, _]) = id;
        let rate = self.cold.arrive(hash, now, units, shortest, quiet);
        let hot = rate.in_micros(self.policy.horizon(terms, rate)) >= Policy::HOT;
        (hot && self.entries.len() < self.most).then_some(rate)
    }

    /// A request that waited begins again.
    #[must_use]
    pub fn again(&self, id: Id, now: Nanos, units: u32, terms: &Terms) -> Next {
        let Some(mut entry) = self.entries.get_mut(&id) else { return Next::Strict };
        let step = entry.lease.again(now, units, terms, &self.policy);
        self.next(entry, now, step)
    }

    fn next(&self, mut entry: RefMut<'_, Id, Entry>, now: Nanos, step: Step) -> Next {
        match step {
            Step::Spent(spent) => {
                let refresh = entry.lease.refresh(now, &self.policy);
                let outcome = admitted(&entry.lease, now, spent.mark());
                Next::Taken(Taken { outcome, spent, epoch: entry.lease.epoch(), refresh })
            }
            Step::Denied(wait) => Next::Denied(refused(&entry.lease, now, wait)),
            // Made under the lock, so that an answer that comes now is not missed.
            Step::Wait => Next::Wait(Arc::clone(&entry.answered).notified_owned()),
            Step::Ask(ask) => Next::Ask(ask),
            Step::Strict => Next::Strict,
        }
    }

    /// The store answered. What the request that waited for it is told; `None` when that is over.
    pub fn answered(&self, id: Id, ask: &Ask, now: Nanos, reply: Reply) -> Option<Outcome> {
        let mut entry = self.entries.get_mut(&id)?;
        let answer = entry.lease.answered(ask.flight, now, reply);
        if answer != Answer::Ignored {
            entry.answered.notify_waiters();
        }
        let lease = &entry.lease;
        match answer {
            Answer::Admitted(mark) => Some(admitted(lease, now, mark)),
            Answer::Denied(wait) => Some(refused(lease, now, wait)),
            Answer::Ignored => None,
        }
    }

    /// That question becomes another one, which is sent now and no request waits for; if it is still under way.
    #[must_use]
    pub fn ask_for_nobody(&self, id: Id, ask: &Ask, now: Nanos) -> Option<Ask> {
        self.entries.get_mut(&id)?.lease.ask_for_nobody(ask, now)
    }

    /// Ready when the question about a key that is under way has been answered; `None` if there is none.
    #[must_use]
    pub fn under_way(&self, id: Id) -> Option<OwnedNotified> {
        let entry = self.entries.get_mut(&id)?;
        entry.lease.asking().map(|_| Arc::clone(&entry.answered).notified_owned())
    }

    /// The question gets no answer, if it is still under way. Of one that is over nobody is told: whoever waits
    /// then waits for the next.
    pub fn unanswered(&self, id: Id, ask: &Ask) {
        if let Some(mut entry) = self.entries.get_mut(&id)
            && entry.lease.unanswered(ask.flight)
        {
            entry.answered.notify_waiters();
        }
    }

    /// A strict charge was refused for that long.
    pub fn refused(&self, id: Id, sent: Nanos, now: Nanos, units: u32, wait: Nanos) {
        if let Some(mut entry) = self.entries.get_mut(&id) {
            entry.lease.refused(sent, now, units, wait);
        }
    }

    /// A request that was admitted here is not after all.
    pub fn put_back(&self, id: Id, now: Nanos, taken: &Taken) {
        if let Some(mut entry) = self.entries.get_mut(&id) {
            entry.lease.put_back(taken.spent, taken.epoch, now);
        }
    }

    /// A request that was counted here comes again.
    pub fn uncount(&self, id: Id, units: u32) {
        if let Some(mut entry) = self.entries.get_mut(&id) {
            entry.lease.uncount(units);
        }
    }

    /// Charges up to `units` to what is held. Says how many are left to charge elsewhere.
    #[must_use]
    pub fn debit(&self, id: Id, now: Nanos, units: u32, terms: &Terms) -> u32 {
        let Some(mut entry) = self.entries.get_mut(&id) else { return units };
        let mut left = units;
        while left > 0 {
            let part = left.min(entry.lease.most(now));
            let step = (part > 0).then(|| entry.lease.at_once(now, part, terms, &self.policy));
            let Some(Some(Step::Spent(_))) = step else { break };
            left -= part;
        }
        left
    }

    /// Gives back up to `units` of a charge that ended at `mark`; whether anything was. `epoch` as the receipt
    /// of a lease has it.
    pub fn give_back(&self, id: Id, mark: Ticks, epoch: Option<u32>, units: u32, now: Nanos) -> bool {
        let mut entry = self.entries.get_mut(&id);
        let lease = entry.as_mut().map(|entry| &mut entry.lease);
        let lease = lease.filter(|lease| epoch.is_none_or(|epoch| epoch == lease.epoch()));
        lease.is_some_and(|lease| lease.give_back(mark, units, now))
    }

    /// Drops what is held and known of a key, whose counter was reset or refunded.
    pub fn forget(&self, id: Id) {
        if let Some(mut entry) = self.entries.get_mut(&id) {
            entry.lease.forget();
            entry.answered.notify_waiters();
        }
    }

    /// Likewise, by the limit's id, however it counts.
    pub(crate) fn forget_key(&self, limit: u64, key: Key<'_>) {
        for algorithm in [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow] {
            self.forget(self.id_of(limit, algorithm, key));
        }
    }

    /// Drops what is known of a key's denials.
    pub fn forget_denial(&self, id: Id) {
        if let Some(mut entry) = self.entries.get_mut(&id) {
            entry.lease.forget_denial();
        }
    }

    /// Drops everything that is held and known: this machine slept.
    pub fn forget_all(&self) {
        for mut entry in self.entries.iter_mut() {
            entry.lease.forget();
            entry.answered.notify_waiters();
        }
    }

    /// Units held of a key.
    #[must_use]
    pub fn held(&self, id: Id, now: Nanos) -> u32 {
        self.entries.get(&id).map_or(0, |entry| entry.lease.held(now))
    }

    /// Units held in all, for a gauge. Walks the table.
    #[must_use]
    pub fn held_in_all(&self, now: Nanos) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.lease.held(now))).sum()
    }

    /// Hot keys.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.entries.len()
    }

    /// Drops entries that nobody needs, now and then. Walks the table: off the way of requests.
    pub fn sweep(&self, now: Nanos) {
        let swept = self.swept.load(Ordering::Relaxed);
        let due = now.get().saturating_sub(swept) >= SWEEP.get() || self.entries.len() >= self.most;
        let mine =
            || self.swept.compare_exchange(swept, now.get(), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if due && mine() {
            self.entries.retain(|_, entry| !entry.lease.is_idle(now, &self.policy));
        }
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("keys", &self.entries.len()).field("most", &self.most).finish()
    }
}

fn admitted(lease: &Lease, now: Nanos, mark: Ticks) -> Outcome {
    let (left, recovered) = lease.left(now);
    Outcome::admitted(left)
        .with_reset_after(recovered)
        .with_receipt(Receipt::new(LEASED | u128::from(lease.epoch()) << EPOCH | mark.get()))
}

fn refused(lease: &Lease, now: Nanos, wait: Nanos) -> Outcome {
    let wait = wait.max(Nanos::new(1));
    let (left, recovered) = lease.left(now);
    Outcome::refused(left, Some(wait)).with_reset_after(recovered.max(wait))
}

/// The end of a charge that was made out of a lease, and its epoch, by its receipt.
pub(super) fn mark_of(receipt: Receipt) -> Option<(Ticks, u32)> {
    let mark = receipt.mark();
    let epoch = u32::try_from((mark & !LEASED) >> EPOCH).ok()?;
    (mark & LEASED != 0).then_some((Ticks::new(mark & ((1 << EPOCH) - 1)), epoch))
}
