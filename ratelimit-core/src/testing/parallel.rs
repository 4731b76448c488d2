//! Many at once, and calls that are given up.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Waker};

use tokio::task::JoinSet;

use super::{Law, Subject, TIMED, encoded, ensure, slow};
use crate::algorithm::Op;
use crate::limit::{Algorithm, Limit};
use crate::store::{Charge, Store};

const TASKS: u32 = 8;

/// Runs a job in several tasks at once and gives back what they returned.
async fn at_once<S, F, T>(subject: &Subject<S>, job: impl Fn(Subject<S>, u32) -> F) -> Result<Vec<T>, String>
where
    S: Store,
    F: Future<Output = Result<T, String>> + Send + 'static,
    T: Send + 'static,
{
    let mut tasks = JoinSet::new();
    for number in 0..TASKS {
        tasks.spawn(job(subject.clone(), number));
    }
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        results.push(result.map_err(|error| error.to_string())??);
    }
    Ok(results)
}

/// However many ask at once, the quota is used up and not exceeded.
///
/// # Errors
/// What is wrong with the subject.
pub async fn parallel_quota<S: Store>(subject: &Subject<S>) -> Law {
    const QUOTA: u32 = 1000;
    for algorithm in TIMED {
        let limit = slow("parallel", algorithm, QUOTA)?;
        let job = |subject: Subject<S>, _| {
            let limit = limit.clone();
            async move {
                let mut admitted = 0;
                for _ in 0..2 * QUOTA / TASKS {
                    admitted += u32::from(subject.take(&limit, "k", 1).await?.admitted);
                }
                Ok(admitted)
            }
        };
        let admitted: u32 = at_once(subject, job).await?.into_iter().sum();
        ensure!(admitted == QUOTA, "{algorithm}: {TASKS} tasks were admitted {admitted} of {QUOTA} units");
    }
    Ok(())
}

/// At no instant are more permits held than there are.
///
/// # Errors
/// What is wrong with the subject.
pub async fn parallel_permits<S: Store>(subject: &Subject<S>) -> Law {
    const PERMITS: u32 = 3;
    let limit = slow("parallel-permits", Algorithm::Concurrency, PERMITS)?;
    let held = Arc::new(AtomicU32::new(0));
    let job = |subject: Subject<S>, _| {
        let (limit, held) = (limit.clone(), Arc::clone(&held));
        async move {
            let mut got = 0;
            for _ in 0..200 {
                let permit = subject.take(&limit, "k", 1).await?;
                if !permit.admitted {
                    tokio::task::yield_now().await;
                    continue;
                }
                got += 1;
                let now = held.fetch_add(1, Ordering::SeqCst) + 1;
                ensure!(now <= PERMITS, "{now} of {PERMITS} permits are held at once");
                tokio::task::yield_now().await;
                held.fetch_sub(1, Ordering::SeqCst);
                subject.op(&limit, "k", Op::Refund(1, Some(permit.receipt))).await?;
            }
            Ok(got)
        }
    };
    let got: u32 = at_once(subject, job).await?.into_iter().sum();
    ensure!(got >= PERMITS, "{TASKS} tasks got {got} permits in all");
    let left = subject.left(&limit, "k").await?;
    ensure!(left == PERMITS, "all permits were given back, and {left} of {PERMITS} are free");
    Ok(())
}

/// Calls about several limits, in different orders at once, charge all of them or none: afterwards each has
/// been charged as often as calls were admitted.
///
/// # Errors
/// What is wrong with the subject.
pub async fn parallel_all_or_nothing<S: Store>(subject: &Subject<S>) -> Law {
    let limits: Vec<Limit> =
        [(Algorithm::TokenBucket, 400), (Algorithm::SlidingWindow, 300), (Algorithm::FixedWindow, 500)]
            .into_iter()
            .map(|(algorithm, capacity)| slow("parallel-all", algorithm, capacity))
            .collect::<Result<_, _>>()?;
    let job = |subject: Subject<S>, number: u32| {
        let mut limits = limits.clone();
        async move {
            let turns = usize::try_from(number).unwrap_or(0) % limits.len();
            limits.rotate_left(turns);
            let key = encoded("k");
            let mut admitted = 0;
            for _ in 0..100 {
                let charges: Vec<_> =
                    limits.iter().map(|limit| Charge { limit, key: key.key(), op: Op::Take(1) }).collect();
                admitted += u32::from(subject.decide(&charges).await?.admitted);
            }
            Ok(admitted)
        }
    };
    let admitted: u32 = at_once(subject, job).await?.into_iter().sum();
    ensure!(admitted == 300, "the scarcest of the limits has 300 units, and {admitted} calls were admitted");
    for limit in &limits {
        let (left, due) = (subject.left(limit, "k").await?, limit.capacity() - admitted);
        ensure!(left == due, "{:?}: {left} left after {admitted} calls, not {due}", limit.name());
    }
    Ok(())
}

/// A call that is given up, however far it got, has charged once or not at all; one that was answered has
/// charged once.
///
/// # Errors
/// What is wrong with the subject.
pub async fn dropped_calls_charge_at_most_once<S: Store>(subject: &Subject<S>) -> Law {
    let limit = slow("dropped", Algorithm::TokenBucket, 10)?;
    for polls in 0..8 {
        let name = format!("after {polls} polls");
        let key = encoded(name.as_str());
        let charges = [Charge { limit: &limit, key: key.key(), op: Op::Take(1) }];
        let mut answered = false;
        {
            let mut call = pin!(subject.store().decide(&charges));
            for _ in 0..polls {
                if call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    answered = true;
                    break;
                }
                subject.settle().await;
            }
        }
        for _ in 0..5 {
            subject.settle().await;
            let left = subject.left(&limit, &name).await?;
            ensure!(left >= 9, "a call dropped {name} charged {} units", 10 - left);
            ensure!(!answered || left == 9, "a call answered {name} charged {} units", 10 - left);
        }
    }
    Ok(())
}
