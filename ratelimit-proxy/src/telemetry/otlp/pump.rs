//! From the queues to the collector, and what comes of it when the collector is away.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::signal::Signal;
use super::wire::{Refused, Wire};
use super::{LAST, Outbox, Queue};

/// How often queues are emptied.
const EVERY: Duration = Duration::from_secs(1);
/// The first and the longest pause before a message is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// Most that one message holds.
const MOST: usize = 512;

pub(super) struct Pump<'p> {
    wire: &'p Wire,
    outbox: &'p Outbox,
    stopped: &'p watch::Receiver<bool>,
    /// Whether the collector is known to be away: told once.
    away: Cell<bool>,
}

impl<'p> Pump<'p> {
    pub(super) fn new(wire: &'p Wire, outbox: &'p Outbox, stopped: &'p watch::Receiver<bool>) -> Self {
        Self { wire, outbox, stopped, away: Cell::new(false) }
    }

    /// Sends what a queue holds until all is to end.
    pub(super) async fn drain<T, S: Signal>(&self, queue: &Queue<T>, make: impl Fn(Vec<T>) -> S) {
        let mut waiting = queue.receiver.lock().await;
        loop {
            let ends = self.pause(EVERY).await;
            // No more in one go than there may be, however fast more comes.
            for _ in 0..waiting.max_capacity().div_ceil(MOST) {
                let mut batch = Vec::new();
                while batch.len() < MOST
                    && let Ok(one) = waiting.try_recv()
                {
                    batch.push(one);
                }
                if batch.is_empty() {
                    break;
                }
                let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
                self.send(make(batch), count, true).await;
            }
            if ends {
                return;
            }
        }
    }

    /// Sends what is made, that often; what is not taken is not kept, since the next one says more.
    pub(super) async fn repeat<S: Signal>(&self, every: Option<Duration>, make: impl Fn() -> S) {
        let Some(every) = every else { return };
        loop {
            let ends = self.pause(every).await;
            self.send(make(), 1, false).await;
            if ends {
                return;
            }
        }
    }

    /// Waits; returns whether all is to end.
    async fn pause(&self, length: Duration) -> bool {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            () = sleep(length) => false,
            _ = stopped.wait_for(|stop| *stop) => true,
        }
    }

    async fn send<S: Signal>(&self, message: S, count: u64, keep: bool) {
        let mut pause = PAUSE.0;
        let ends = Cell::new(None);
        loop {
            // Once all ends there is little time.
            if *self.stopped.borrow() && ends.get().is_none() {
                ends.set(Some(Instant::now() + LAST));
            }
            let said = self.wire.send(message.clone());
            let said = match ends.get() {
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    timeout(left, said).await.unwrap_or(Err(Refused::Slow))
                }
                None => self.unless_it_ends(said).await,
            };
            match said {
                Ok(rejected) => return self.taken::<S>(rejected),
                Err(refused) => {
                    self.refused(&refused);
                    let over = ends.get().is_some_and(|end| Instant::now() >= end);
                    if over || !keep || !refused.is_passing() {
                        self.outbox.lose(S::TOLD, count);
                        return;
                    }
                }
            }
            if ends.get().is_some() {
                sleep(Duration::from_millis(100)).await;
            } else {
                self.pause(pause).await;
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// What is being said when all ends is given up soon: a collector that is slow holds nobody up.
    async fn unless_it_ends<T>(&self, said: impl Future<Output = Result<T, Refused>>) -> Result<T, Refused> {
        let mut stopped = self.stopped.clone();
        let ended = async {
            let _ = stopped.wait_for(|stop| *stop).await;
            sleep(LAST).await;
        };
        tokio::select! {
            said = said => said,
            () = ended => Err(Refused::Slow),
        }
    }

    fn taken<S: Signal>(&self, rejected: Option<(i64, String)>) {
        if self.away.replace(false) {
            tracing::info!("the collector of OTLP takes what it is told again");
        }
        let Some((count, why)) = rejected else { return };
        if let Some(count) = u64::try_from(count).ok().filter(|count| *count > 0) {
            self.outbox.lose(S::TOLD, count);
            tracing::debug!(count, why, "the collector of OTLP threw some away");
        }
    }

    fn refused(&self, refused: &Refused) {
        if !self.away.replace(true) {
            tracing::warn!(%refused, "the collector of OTLP does not take what it is told");
        }
    }
}
