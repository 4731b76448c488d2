//! A configuration that is likely wrong says so: in the log (once), in the metrics and on the dashboard.
//!
//! Requests are surveyed by the thread that serves them (`survey.rs`), at most a thousand a second each; a thread in
//! the background judges what was seen (`judge.rs`). Nothing here changes what a limit says.

mod judge;
mod survey;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use self::judge::{Judge, Seen};
use self::survey::Survey;
pub(crate) use self::survey::Surveyor;
use crate::state::Shared;
use crate::supervise;

/// How often is judged, at most and at least.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Nearly all requests come from one address and tell of other clients, which is not believed.
    UntrustedProxy,
    /// A limit that no request met.
    NeverMatched,
    /// Nearly all requests that a limit is about lack a value of its key.
    KeyMissing,
    /// What the file says is doubtful by itself.
    File,
}

impl Kind {
    /// All of them, with the words that stand for them in metrics.
    pub(crate) const ALL: [(Self, &'static str); 4] = [
        (Self::UntrustedProxy, "untrusted_proxy"),
        (Self::NeverMatched, "never_matched"),
        (Self::KeyMissing, "key_missing"),
        (Self::File, "file"),
    ];

    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, word)| word)
    }
}

/// One thing that is likely wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Doubt {
    pub(crate) kind: Kind,
    /// The limit it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<Box<str>>,
    /// What was seen, what that means, and what to do.
    pub(crate) text: String,
}

/// What is known of what may be wrong.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    /// One of each thread that serves.
    surveys: Mutex<Vec<Arc<Survey>>>,
    /// What requests show.
    shown: Mutex<Vec<Doubt>>,
    /// What the file in force shows.
    file: Mutex<Vec<Doubt>>,
}

impl Doubts {
    /// All of it, as it was judged last.
    pub(crate) fn now(&self) -> Vec<Doubt> {
        let file = locked(&self.file);
        file.iter().chain(&*locked(&self.shown)).cloned().collect()
    }

    /// How many there are of each kind, by its word.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        let now = self.now();
        let count = |kind| now.iter().filter(|doubt| doubt.kind == kind).map(|_| 1).sum();
        Kind::ALL.iter().map(|(kind, word)| (*word, count(*kind))).collect()
    }

    /// What the file that is in force from now on makes doubtful, a line each.
    pub(crate) fn of_file(&self, lines: impl IntoIterator<Item = String>) {
        let doubt = |text| Doubt { kind: Kind::File, limit: None, text };
        *locked(&self.file) = lines.into_iter().map(doubt).collect();
    }
}

/// Judges on a thread of its own, until nobody else holds `shared`.
///
/// # Errors
/// When there is no thread to be had.
pub(crate) fn watch(shared: &Arc<Shared>) -> io::Result<()> {
    let weak = Arc::downgrade(shared);
    let work = move || {
        let mut judge = Judge::default();
        while let Some(shared) = weak.upgrade() {
            let rules = shared.rules.load();
            let pause = match rules.doubted_after {
                None => {
                    locked(&shared.doubts.shown).clear();
                    LOOK.1
                }
                Some(after) => {
                    let seen = Seen::now(&shared, &rules);
                    for doubt in judge.look(Instant::now(), after, &seen) {
                        let (kind, limit) = (doubt.kind.word(), doubt.limit.as_deref());
                        tracing::warn!(kind, limit, "the configuration is likely wrong: {}", doubt.text);
                    }
                    *locked(&shared.doubts.shown) = judge.doubts();
                    (after / 10).clamp(LOOK.0, LOOK.1)
                }
            };
            drop((rules, shared));
            thread::sleep(pause);
        }
        Ok(())
    };
    supervise::thread("doubts", &shared.metrics, work).map(drop)
}

/// What a lock guards stays usable when a thread panicked with it: it is replaced as a whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
