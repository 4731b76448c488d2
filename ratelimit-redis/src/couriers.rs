//! Who waits for an answer, and how it gets there.
//!
//! To wake a task of a runtime on another thread is a system call, and one for each task; to wake it from within its own
//! runtime is none. So the answers of a batch go to a task of the runtime that waits for them, its courier, which is
//! woken once and hands them out there.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::{Handle, Id};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::batch::Answer;

/// Somebody who waits for an answer.
#[derive(Debug)]
pub(crate) struct Asker {
    sender: oneshot::Sender<Answer>,
    /// Where the waiting is done; `None` outside of any runtime.
    runtime: Option<Handle>,
}

impl Asker {
    /// The caller, in its runtime.
    pub(crate) fn here() -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        (Self { sender, runtime: Handle::try_current().ok() }, receiver)
    }

    /// Without a runtime there are no timers.
    pub(crate) fn has_timers(&self) -> bool {
        self.runtime.is_some()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.sender.is_closed()
    }

    /// Answers at once. Who is gone leaves the answer behind.
    pub(crate) fn answer(self, answer: Answer) -> Result<(), Answer> {
        self.sender.send(answer)
    }
}

type Letter = (oneshot::Sender<Answer>, Answer);

/// Hands out the answers of batches.
#[derive(Debug, Default)]
pub(crate) struct Couriers(Vec<Courier>);

/// The courier of one runtime.
#[derive(Debug)]
struct Courier {
    runtime: Id,
    /// Of the batch that is being answered.
    letters: Vec<Letter>,
    bag: Arc<Bag>,
    task: JoinHandle<()>,
}

/// What a courier is given.
#[derive(Debug, Default)]
struct Bag {
    letters: Mutex<Vec<Letter>>,
    bell: Notify,
}

impl Couriers {
    /// Takes an answer along; [`Couriers::go`] sends it on its way.
    pub(crate) fn take(&mut self, asker: Asker, answer: Answer) {
        let Asker { sender, runtime } = asker;
        let Some(runtime) = runtime else { return drop(sender.send(answer)) };
        let id = runtime.id();
        match self.0.iter_mut().find(|courier| courier.runtime == id) {
            Some(courier) => courier.letters.push((sender, answer)),
            None => self.0.push(Courier::new(&runtime, (sender, answer))),
        }
    }

    /// Lets what was taken along be handed out.
    pub(crate) fn go(&mut self) {
        for courier in &mut self.0 {
            // A single one is no faster by courier.
            if let [_] = courier.letters[..] {
                hand_out(&mut courier.letters);
            } else if !courier.letters.is_empty() {
                courier.bag.fill(&mut courier.letters);
            }
        }
    }

    /// To be called now and then: hands out what a courier has not, whose runtime nobody runs or is blocked, and
    /// forgets the couriers of runtimes that ended.
    pub(crate) fn look_after(&mut self) {
        self.0.iter().for_each(Courier::help);
        self.0.retain(|courier| !courier.task.is_finished());
    }
}

impl Courier {
    fn new(runtime: &Handle, letter: Letter) -> Self {
        let bag = Arc::new(Bag::default());
        let carried = Arc::clone(&bag);
        let task = runtime.spawn(async move {
            let mut letters = Vec::new();
            loop {
                carried.bell.notified().await;
                carried.empty_into(&mut letters);
                hand_out(&mut letters);
            }
        });
        Self { runtime: runtime.id(), letters: vec![letter], bag, task }
    }

    /// Does its work for it.
    fn help(&self) {
        let mut letters = Vec::new();
        self.bag.empty_into(&mut letters);
        hand_out(&mut letters);
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        self.help();
        self.task.abort();
    }
}

impl Bag {
    fn fill(&self, letters: &mut Vec<Letter>) {
        {
            let mut kept = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.is_empty() {
                std::mem::swap(&mut *kept, letters);
            } else {
                kept.append(letters);
            }
        }
        self.bell.notify_one();
    }

    /// `letters` is empty, and has room that is used again.
    fn empty_into(&self, letters: &mut Vec<Letter>) {
        std::mem::swap(&mut *self.letters.lock().unwrap_or_else(PoisonError::into_inner), letters);
    }
}

fn hand_out(letters: &mut Vec<Letter>) {
    for (sender, answer) in letters.drain(..) {
        // Who is gone has no use for it.
        let _ = sender.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratelimit_core::{StoreError, StoreErrorKind};
    use tokio::runtime::{Builder, Runtime};

    /// Some who wait in that runtime, whose answers are on their way.
    fn waiting(runtime: &Runtime, couriers: &mut Couriers) -> Vec<oneshot::Receiver<Answer>> {
        let _inside = runtime.enter();
        let (askers, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| Asker::here()).unzip();
        for asker in askers {
            couriers.take(asker, Err(StoreError::new(StoreErrorKind::Timeout, "a test")));
        }
        couriers.go();
        receivers
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().build().unwrap()
    }

    #[test]
    fn each_runtime_has_a_courier_who_answers_all() {
        let (runtimes, mut couriers) = ([runtime(), runtime()], Couriers::default());
        for _ in 0..2 {
            let waiting = runtimes.each_ref().map(|runtime| waiting(runtime, &mut couriers));
            for (runtime, waiting) in runtimes.iter().zip(waiting) {
                for one in waiting {
                    assert!(runtime.block_on(one).unwrap().is_err());
                }
            }
        }
        assert_eq!(couriers.0.len(), 2);
    }

    #[test]
    fn a_runtime_that_nobody_runs_keeps_nobody_waiting_and_one_that_ended_is_forgotten() {
        let (idle, mut couriers) = (runtime(), Couriers::default());
        let mut waiting = waiting(&idle, &mut couriers);
        assert!(waiting.iter_mut().all(|one| one.try_recv().is_err()), "the courier has not run");
        couriers.look_after();
        assert!(waiting.iter_mut().all(|one| one.try_recv().is_ok()));
        assert_eq!(couriers.0.len(), 1);
        drop(idle);
        couriers.look_after();
        assert_eq!(couriers.0.len(), 0);
    }
}
