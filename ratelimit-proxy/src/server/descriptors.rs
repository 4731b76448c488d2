//! File descriptors: how many there may be, and who gets them.
//!
//! A proxy that has none left can neither take a connection nor reach the upstream for those it has, nor answer
//! whoever wants to know why. So as many as the system allows are asked for, and no more clients are let in than
//! can have a connection to the upstream each, with a rest for operators and for what the process itself opens.
//! Should there be none all the same, operators have some put by ([`Spare`]), and clients leave them to them.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the process itself opens: its runtimes, listeners, the log, files it reads.
const OWN: usize = 32;
/// The same for each thread that serves.
const OWN_BY_THREAD: usize = 8;
/// Most connections of operators at a time.
const OPERATORS: usize = 128;

/// Who gets how many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connections {
    /// Clients, over all threads.
    pub(crate) clients: usize,
    /// Operators.
    pub(crate) operators: usize,
}

impl Connections {
    /// For so many threads and at most `wanted` clients, after asking for as many descriptors as may be had.
    pub(crate) fn ask(wanted: usize, threads: usize) -> Self {
        Self::of(raise(), wanted, threads)
    }

    /// What can be had of so many descriptors; `None`: as many as one likes.
    fn of(descriptors: Option<usize>, wanted: usize, threads: usize) -> Self {
        let Some(descriptors) = descriptors else { return Self { clients: wanted, operators: OPERATORS } };
        let own = OWN.saturating_add(OWN_BY_THREAD.saturating_mul(threads));
        let operators = OPERATORS.min(descriptors / 8).max(1);
        // Each client may need a connection to the upstream.
        let clients = descriptors.saturating_sub(own.saturating_add(operators)) / 2;
        Self { clients: wanted.min(clients.max(1)), operators }
    }
}

/// Raises the limit as far as an ordinary process may and says what it is then; `None`: there is none.
fn raise() -> Option<usize> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let limit = if setrlimit(Resource::Nofile, raised).is_ok() { maximum } else { current };
    limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Whether descriptors have run out, for all threads to see.
#[derive(Debug, Default)]
pub(crate) struct Shortage(AtomicBool);

impl Shortage {
    /// They have.
    pub(crate) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a client may not have one: there are none, or only those that operators had put by.
    pub(crate) fn lasts(&self) -> bool {
        if !self.0.load(Ordering::Relaxed) {
            return false;
        }
        let lasts = Spare::of(2 * Spare::COUNT).0.len() < 2 * Spare::COUNT;
        self.0.store(lasts, Ordering::Relaxed);
        lasts
    }
}

/// Descriptors put by for the moment when there are no others, so that operators can see that moment.
#[derive(Debug)]
pub(crate) struct Spare(Vec<File>);

impl Spare {
    /// One for a connection and one to read what the kernel says about this process.
    const COUNT: usize = 2;

    /// Puts some by.
    pub(crate) fn new() -> Self {
        Self::of(Self::COUNT)
    }

    /// So many, as far as they can be had.
    fn of(count: usize) -> Self {
        Self((0..count).map_while(|_| File::open("/dev/null").ok()).collect())
    }

    /// Gives them up, to be used at once. False if there were none.
    pub(crate) fn release(&mut self) -> bool {
        let held = !self.is_spent();
        self.0.clear();
        held
    }

    /// Whether they were given up and could not be had again yet.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts by those that are missing, as far as they can be had.
    pub(crate) fn refill(&mut self) {
        self.0.extend(Self::of(Self::COUNT.saturating_sub(self.0.len())).0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_leaves_a_connection_to_the_upstream_for_each_and_a_rest() {
        for (descriptors, wanted, threads, clients, operators) in [
            (None, 10_000, 4, 10_000, 128),
            (Some(1 << 20), 10_000, 4, 10_000, 128),
            (Some(1024), 10_000, 4, 416, 128),
            (Some(1024), 100, 4, 100, 128),
            (Some(128), 10_000, 1, 36, 16),
            (Some(0), 10_000, usize::MAX, 1, 1),
        ] {
            let connections = Connections::of(descriptors, wanted, threads);
            assert_eq!(connections, Connections { clients, operators }, "{descriptors:?}");
        }
    }
}
