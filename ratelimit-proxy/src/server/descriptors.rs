//! File descriptors: how many there may be, and who gets them.
//!
//! A proxy that has none left can neither take a connection nor reach the upstream for those it has, nor answer
//! whoever wants to know why. So as many as the system allows are asked for, and no more clients are let in than
//! can have a connection to the upstream each, with a rest for operators and for what the process itself opens.

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
