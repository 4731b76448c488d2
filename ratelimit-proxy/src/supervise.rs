//! Work in the background that must not stop unnoticed: it is started again when it dies, and counted.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_util::FutureExt as _;

use crate::telemetry::metrics::Metrics;

/// The first and the longest pause before something is started again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Runs `work` on a thread of that name until it is done; again when it panics or fails.
///
/// # Errors
/// When there is no thread to be had.
pub(crate) fn thread(
    name: &'static str,
    metrics: &Arc<Metrics>,
    work: impl Fn() -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let metrics = Arc::clone(metrics);
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let mut pause = PAUSE.0;
        loop {
            match catch_unwind(AssertUnwindSafe(&work)) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    metrics.restart();
                    tracing::error!(task = name, %error, "a background thread failed and is started again");
                }
                Err(_) => died(name, &metrics),
            }
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE.1);
        }
    })
}

/// Runs what `work` makes until it is done; makes it anew when it panics.
pub(crate) fn keep<F: Future, W: Fn() -> F>(
    name: &'static str,
    metrics: &Arc<Metrics>,
    work: W,
) -> impl Future<Output = F::Output> + use<F, W> {
    let metrics = Arc::clone(metrics);
    async move {
        let mut pause = PAUSE.0;
        loop {
            // The making, too, may panic.
            if let Ok(done) = AssertUnwindSafe(async { work().await }).catch_unwind().await {
                return done;
            }
            died(name, &metrics);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}

fn died(name: &str, metrics: &Metrics) {
    metrics.panic();
    metrics.restart();
    tracing::error!(task = name, "a background task panicked and is started again");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_thread_that_dies_is_started_again_and_counted() {
        let metrics = Metrics::new(&[]);
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        let work = move || match counted.fetch_add(1, Ordering::Relaxed) {
            0 => panic!("it dies once"),
            1 => Err(io::Error::other("it fails once")),
            _ => Ok(()),
        };
        thread("test", &metrics, work).unwrap().join().unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 3);
        assert_eq!((metrics.totals().restarts, metrics.totals().panics), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_dies_is_started_again_and_counted() {
        let metrics = Metrics::new(&[]);
        let runs = AtomicU32::new(0);
        let work = || async { assert!(runs.fetch_add(1, Ordering::Relaxed) >= 2, "it dies twice") };
        keep("test", &metrics, work).await;
        assert_eq!(runs.load(Ordering::Relaxed), 3);
        assert_eq!(metrics.totals().restarts, 2);
    }
}
