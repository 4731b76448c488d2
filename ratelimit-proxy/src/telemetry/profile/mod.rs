//! A CPU profile of this process, as a picture. Costs nothing until one is asked for, and then a signal now and then
//! (`SIGPROF`, by processor time used) whose handler notes what was under way.
//!
//! The stack is walked by its unwind tables, and every address is checked before it is read, so that a stack that makes
//! no sense ends a walk and not the process. The handler allocates nothing, but for the tables of the first walk of all,
//! which are therefore read here, before anything is measured.

mod flame;

use nix::sys::signal::{Signal, raise};
use pprof::{ProfilerGuard, ProfilerGuardBuilder};

use self::flame::Flame;

/// Samples in a second of processor time. No divisor of what else happens regularly.
const FREQUENCY: i32 = 199;
/// So seldom that it does not come in between.
const SELDOM: i32 = 1;

/// A profile being made. Over when dropped.
pub(crate) struct Profile(ProfilerGuard<'static>);

impl Profile {
    /// From now on, of all threads. One at a time.
    ///
    /// # Errors
    /// When the system refuses, in words.
    pub(crate) fn start() -> Result<Self, String> {
        let guard = |frequency| {
            let builder = ProfilerGuardBuilder::default().frequency(frequency).build();
            builder.map_err(|error| {
                format!("it can't be made, which needs a directory for temporary files: {error}")
            })
        };
        let first = guard(SELDOM)?;
        // The handler runs on this thread, which is in the middle of nothing.
        raise(Signal::SIGPROF).map_err(|error| error.to_string())?;
        drop(first);
        guard(FREQUENCY).map(Self)
    }

    /// What was seen, as SVG. Takes a moment: names are looked up in the program.
    ///
    /// # Errors
    /// When what was noted can't be read, in words.
    pub(crate) fn finish(self) -> Result<String, String> {
        let report = self.0.report().build().map_err(|error| error.to_string())?;
        let mut flame = Flame::default();
        for (frames, count) in &report.data {
            let thread = std::iter::once(frames.thread_name.clone());
            let calls = frames.frames.iter().rev().flat_map(|inlined| inlined.iter().rev());
            flame.add(thread.chain(calls.map(pprof::Symbol::name)), count.unsigned_abs());
        }
        Ok(flame.svg(&format!("{FREQUENCY} in a second of processor time")))
    }
}
