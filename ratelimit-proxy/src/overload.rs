//! [`Memory`]: whether the process uses more memory than it was given, so that requests are refused before the
//! kernel ends all of them at once.
//!
//! A thread looks at it now and then; requests read one flag. While it is set, new requests are answered 503 and
//! their connections closed, and idle connections to the upstream are dropped. Requests under way go on: they are
//! what gives memory back. The counters stay, too: dropping one would give its key a fresh start.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use procfs::process::Process;

use crate::state::Shared;
use crate::supervise;

/// How often the thread looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// What may be used, and whether more is.
#[derive(Debug, Default)]
pub struct Memory {
    most: Option<u64>,
    short: AtomicBool,
}

impl Memory {
    /// With so many bytes; `None`: whatever there is.
    pub(crate) fn new(most: Option<u64>) -> Self {
        Self { most, short: AtomicBool::new(false) }
    }

    /// Whether more is used than may be.
    #[inline]
    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Takes note of how many bytes are in use. Returns what changed: it is short from the limit on, and no
    /// longer once a twentieth is free again.
    fn note(&self, used: u64) -> Option<bool> {
        let most = self.most?;
        let short = if self.is_short() { used > most - most / 20 } else { used > most };
        (self.short.swap(short, Ordering::Relaxed) != short).then_some(short)
    }
}

/// Watches the memory on a thread of its own, if there is a bound to it, until nobody else holds `shared`.
///
/// # Errors
/// When there is no thread to be had.
pub(crate) fn watch(shared: &Arc<Shared>) -> io::Result<()> {
    let Some(most) = shared.memory.most else { return Ok(()) };
    let weak = Arc::downgrade(shared);
    let work = move || {
        while let Some(shared) = weak.upgrade() {
            let used = resident()?;
            match shared.memory.note(used) {
                Some(true) => tracing::warn!(used, most, "short of memory: new requests are refused"),
                Some(false) => tracing::warn!(used, most, "there is memory again: requests are served"),
                None => {}
            }
            if shared.memory.is_short() {
                nudge();
            }
            drop(shared);
            thread::sleep(INTERVAL);
        }
        Ok(())
    };
    supervise::thread("memory", &shared.metrics, work).map(drop)
}

/// Makes the allocator look at what it could give back to the system: it does so only when large pieces come and
/// go, and where all requests are refused, none do.
fn nudge() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(4 << 20)));
}

/// Bytes of memory in use.
fn resident() -> io::Result<u64> {
    let statm = Process::myself().and_then(|process| process.statm()).map_err(io::Error::other)?;
    Ok(statm.resident.saturating_mul(procfs::page_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_short_from_the_limit_on_until_a_twentieth_is_free() {
        let memory = Memory::new(Some(1000));
        for (used, change) in
            [(1000, None), (1001, Some(true)), (1000, None), (951, None), (950, Some(false)), (951, None)]
        {
            assert_eq!(memory.note(used), change, "{used}");
        }
        assert_eq!(Memory::default().note(u64::MAX), None);
        assert!(resident().unwrap() > 1 << 20);
    }
}
