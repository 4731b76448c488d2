//! All threads together.

use super::limits::LimitTotals;
use super::words::{CODE_CLASSES, PRESSURES, Pressure, ProtocolError, Questioned, Reloaded};
use crate::telemetry::histogram::Distribution;

/// The sum over all threads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// One for each limit, in their order.
    pub limits: Vec<LimitTotals>,
    /// Requests answered, in the order of [`CODE_CLASSES`].
    pub classes: [u64; CODE_CLASSES.len()],
    /// How often the configuration was read again, in the order of [`Reloaded::ALL`].
    pub reloads: [u64; Reloaded::ALL.len()],
    /// How long they took, to the end of the response.
    pub requests: Distribution,
    /// How long the upstream took, to the head of its response.
    pub upstream: Distribution,
    /// Requests that were tried again.
    pub retries: u64,
    /// How long requests waited for what their limits say.
    pub decisions: Distribution,
    /// Clients' connections at the moment.
    pub connections: u64,
    /// In the order of [`ProtocolError::ALL`].
    pub errors: [u64; ProtocolError::ALL.len()],
    /// How often there was not enough.
    pub pressures: [u64; PRESSURES],
    /// Questions of Envoy's, in the order of [`Questioned::ALL`].
    pub questions: [u64; Questioned::ALL.len()],
    /// Panics caught: bugs.
    pub panics: u64,
    /// Background tasks that died and were started again.
    pub restarts: u64,
}

impl Totals {
    /// How often there was not enough of that.
    #[must_use]
    pub fn pressure(&self, of: Pressure) -> u64 {
        self.pressures.get(of as usize).copied().unwrap_or_default()
    }
}
