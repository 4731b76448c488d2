//! Waiting for admission: first come, first served for each key of this process.
//!
//! Everyone who waits for a key stands in a fair queue; its head alone asks the limit and sleeps for as long
//! as the denial says. Nobody reserves time ahead, so a waiter that is dropped leaves nothing behind.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use smallvec::SmallVec;
use tokio::sync::Semaphore;

use super::{Limiter, Permit, encoded};
use crate::algorithm::{Op, Program};
use crate::decision::Decision;
use crate::error::CheckError;
use crate::key::{AsKey, KeyBuf};
use crate::limit::{Limit, LimitId};
use crate::store::Store;
use crate::time::Nanos;

/// The queues of all keys that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Queues(DashMap<QueueKey, Queue, foldhash::fast::RandomState>);

type QueueKey = (LimitId, SmallVec<[u8; 32]>);

#[derive(Debug)]
struct Queue {
    /// One permit: whoever holds it is at the head.
    head: Arc<Semaphore>,
    waiting: usize,
}

/// A place in a key's queue; the last one to leave takes the queue away.
struct Place<'q> {
    queues: &'q Queues,
    key: QueueKey,
    head: Arc<Semaphore>,
    /// How many stood in the queue before.
    ahead: usize,
}

impl Queues {
    fn join(&self, limit: &Limit, key: &KeyBuf) -> Place<'_> {
        let key = (limit.id(), SmallVec::from_vec(key.key().to_vec()));
        let mut queue = self
            .0
            .entry(key.clone())
            .or_insert_with(|| Queue { head: Arc::new(Semaphore::new(1)), waiting: 0 });
        let ahead = queue.waiting;
        queue.waiting += 1;
        let head = Arc::clone(&queue.head);
        drop(queue);
        Place { queues: self, key, head, ahead }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut queue) = self.queues.0.entry(self.key.clone()) {
            queue.get_mut().waiting -= 1;
            if queue.get().waiting == 0 {
                queue.remove();
            }
        }
    }
}

impl<S: Store> Limiter<S> {
    /// Waits until one unit can be charged to the key, and charges it.
    ///
    /// Calls for the same key are admitted in the order in which they came, among the callers of this limiter;
    /// a plain [`check`](Limiter::check) may overtake them. Dropping the future at any point charges nothing
    /// and gives up the place.
    ///
    /// # Errors
    /// When the store can't answer.
    pub async fn until_ready<'l, K: AsKey>(
        &self,
        limit: &'l Limit,
        key: K,
    ) -> Result<Decision<'l>, CheckError> {
        self.until_ready_n(limit, key, 1).await
    }

    /// As [`Limiter::until_ready`], for `cost` units.
    ///
    /// # Errors
    /// When the cost is more than the limit can ever hold, or the store can't answer.
    pub async fn until_ready_n<'l, K: AsKey>(
        &self,
        limit: &'l Limit,
        key: K,
        cost: u32,
    ) -> Result<Decision<'l>, CheckError> {
        let key = encoded(&key);
        let place = self.queues.join(limit, &key);
        let _head = Arc::clone(&place.head).acquire_owned().await;
        loop {
            let decision = self.ask(limit, &key, Op::Take(cost)).await?;
            match decision.retry_after() {
                Some(wait) => tokio::time::sleep(Duration::from(wait)).await,
                None => return Ok(decision),
            }
        }
    }

    /// As [`Limiter::until_ready_n`], if it can be within `timeout`. `None` when it cannot, and nothing is
    /// charged: at once where that can be told, from the wait that the limit says and the units those ahead
    /// in the queue will take if each takes as many; else when the time is over.
    ///
    /// # Errors
    /// When the cost is more than the limit can ever hold, or the store can't answer.
    pub async fn until_ready_within<'l, K: AsKey>(
        &self,
        limit: &'l Limit,
        key: K,
        cost: u32,
        timeout: Duration,
    ) -> Result<Option<Decision<'l>>, CheckError> {
        // Nobody waits longer than a year; a sum of instants could overflow.
        let start = tokio::time::Instant::now();
        let end = start + timeout.min(Duration::from_secs(31_556_952));
        let left = || Nanos::from(end.saturating_duration_since(tokio::time::Instant::now()));
        let key = encoded(&key);
        let place = self.queues.join(limit, &key);
        if place.ahead > 0 {
            let now = self.ask(limit, &key, Op::Peek(cost)).await?;
            let wait = now.retry_after().unwrap_or(Nanos::ZERO);
            if wait.saturating_add(time_for(limit, cost, place.ahead)) > left() {
                return Ok(None);
            }
        }
        let head = Arc::clone(&place.head).acquire_owned();
        let Ok(_head) = tokio::time::timeout_at(end, head).await else { return Ok(None) };
        loop {
            let decision = self.ask(limit, &key, Op::Take(cost)).await?;
            match decision.retry_after() {
                Some(wait) if wait > left() => return Ok(None),
                Some(wait) => tokio::time::sleep(Duration::from(wait)).await,
                None => return Ok(Some(decision)),
            }
        }
    }

    /// Waits for a permit of a concurrency limit, in the order in which calls for the key came.
    ///
    /// Permits released in this process are noticed within 10 ms.
    ///
    /// # Errors
    /// When the store can't answer.
    pub async fn until_acquired<K: AsKey>(&self, limit: &Limit, key: K) -> Result<Permit<S>, CheckError> {
        const POLL: Duration = Duration::from_millis(10);
        let key = encoded(&key);
        let place = self.queues.join(limit, &key);
        let _head = Arc::clone(&place.head).acquire_owned().await;
        loop {
            match self.acquire(limit, &key).await? {
                Ok(permit) => return Ok(permit),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }
}

/// In which so many times `cost` units come back, where that is steady.
fn time_for(limit: &Limit, cost: u32, times: usize) -> Nanos {
    let Program::TokenBucket(bucket) = limit.program() else { return Nanos::ZERO };
    let units = u128::from(cost) * u128::try_from(times).unwrap_or(u128::MAX >> 64);
    let ticks = bucket.interval_ticks().saturating_mul(units);
    Nanos::new(u64::try_from(ticks >> 10).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;
    use crate::time::TokioClock;

    fn limiter() -> Limiter<MemoryStore<TokioClock>> {
        Limiter::new(MemoryStore::with_clock(TokioClock::default()))
    }

    #[tokio::test(start_paused = true)]
    async fn admits_in_order_and_leaves_nothing_behind() {
        let limiter = limiter();
        let limit = Limit::new("slow", "1/s".parse().unwrap());
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..5)
            .map(|number| {
                let (limiter, limit, order) = (limiter.clone(), limit.clone(), Arc::clone(&order));
                tokio::spawn(async move {
                    assert!(limiter.until_ready(&limit, "k").await.unwrap().is_allowed());
                    order.lock().unwrap().push(number);
                })
            })
            .collect();
        let start = tokio::time::Instant::now();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(4) && took < Duration::from_millis(4010), "{took:?}");
        assert_eq!(limiter.queues.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_waiter_charges_nothing_and_gives_up_its_place() {
        let limiter = limiter();
        let limit = Limit::new("slow", "1/s".parse().unwrap());
        assert!(limiter.until_ready(&limit, "k").await.unwrap().is_allowed());
        let start = tokio::time::Instant::now();
        for _ in 0..10 {
            let waiting = limiter.until_ready(&limit, "k");
            assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err());
        }
        assert!(limiter.until_ready(&limit, "k").await.unwrap().is_allowed());
        assert!(start.elapsed() < Duration::from_millis(1010), "{:?}", start.elapsed());
        assert_eq!(limiter.queues.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_never_be_admitted_does_not_wait() {
        let limit = Limit::new("slow", "5/s".parse().unwrap());
        let error = limiter().until_ready_n(&limit, "k", 6).await.unwrap_err();
        assert!(matches!(error, CheckError::CostExceedsLimit { cost: 6, capacity: 5, .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn permits_are_waited_for() {
        let limiter = limiter();
        let limit = Limit::concurrency("two", 2);
        let first = limiter.until_acquired(&limit, ()).await.unwrap();
        let _second = limiter.until_acquired(&limit, ()).await.unwrap();
        let waiting = tokio::spawn({
            let (limiter, limit) = (limiter.clone(), limit.clone());
            async move { limiter.until_acquired(&limit, ()).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_in_time_is_told_at_once_and_costs_nothing() {
        let limiter = limiter();
        let limit = Limit::new("slow", "1/s".parse().unwrap());
        let within = |seconds| limiter.until_ready_within(&limit, "k", 1, Duration::from_secs(seconds));
        let start = tokio::time::Instant::now();
        assert!(within(0).await.unwrap().is_some());
        assert!(within(0).await.unwrap().is_none());
        assert_eq!(start.elapsed(), Duration::ZERO);
        // Two wait for one and two seconds; a third would have to wait three.
        let (first, second, third, early) = tokio::join!(within(2), within(2), within(2), async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let late = within(2).await.unwrap().is_none();
            (late, start.elapsed() < Duration::from_millis(10))
        });
        assert!(first.unwrap().is_some() && second.unwrap().is_some() && third.unwrap().is_none());
        assert_eq!(early, (true, true), "told at once");
        assert!(start.elapsed() < Duration::from_millis(2_010), "{:?}", start.elapsed());
        assert!(within(1).await.unwrap().is_some(), "whoever gave up has charged nothing");
        assert_eq!(limiter.queues.len(), 0);
        let error = limiter.until_ready_within(&limit, "k", 2, Duration::MAX / 4).await.unwrap_err();
        assert!(matches!(error, CheckError::CostExceedsLimit { .. }), "{error}");
    }
}
