//! Notices that the machine slept.
//!
//! While a machine sleeps its monotonic clock stands still, and so would the time until which a lease may be
//! spent. The wall clock goes on; once it has moved by more than the monotonic one did, leases are dropped. A wall
//! clock that was set costs the leases too, which is harmless.

use std::sync::atomic::{AtomicU64, Ordering};

use ratelimit_core::Nanos;
use ratelimit_core::time::Clock;

/// By so much the clocks may differ from one look to the next. Setting a clock slowly stays far below.
const APART: u64 = 100_000_000;

/// The wall clock's lead over the monotonic one.
#[derive(Debug)]
pub(super) struct Sleep(AtomicU64);

impl Sleep {
    pub(super) fn new(clock: &impl Clock) -> Self {
        Self(AtomicU64::new(lead(clock).1))
    }

    /// The time. If the machine slept since this was asked last, `forget` is called first, by each thread that
    /// finds out before it is done.
    pub(super) fn check(&self, clock: &impl Clock, forget: impl FnOnce()) -> Nanos {
        let (mut now, mut lead_now) = lead(clock);
        let before = self.0.load(Ordering::Acquire);
        if apart(before, lead_now) {
            // This thread may have been held up between the two readings.
            (now, lead_now) = lead(clock);
            if apart(before, lead_now) {
                forget();
            }
        }
        // Written only when it has moved, so that threads don't take the line from each other.
        if before >> 20 != lead_now >> 20 {
            self.0.store(lead_now, Ordering::Release);
        }
        now
    }
}

fn lead(clock: &impl Clock) -> (Nanos, u64) {
    let now = clock.now();
    (now, clock.utc().get().wrapping_sub(now.get()))
}

fn apart(one: u64, other: u64) -> bool {
    one.wrapping_sub(other).min(other.wrapping_sub(one)) > APART
}
