//! [`By`]: who changes something, for the log.

use std::fmt;
use std::net::SocketAddr;

/// Who changes something, for the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct By {
    /// The other end of the connection.
    pub(crate) peer: SocketAddr,
    /// Whether the token was shown.
    pub(crate) token: bool,
}

impl By {
    pub(super) const fn name(&self) -> &'static str {
        if self.token { "token" } else { "loopback" }
    }

    /// Tells the log that something was asked for that costs more than an answer.
    pub(crate) fn asks(&self, what: &str) {
        tracing::info!(by = self.name(), from = %self.peer, what, "asked for by an operator");
    }

    /// Tells the log that something was changed that belongs to no limit.
    pub(crate) fn changes(&self, what: &str, before: &dyn fmt::Display, after: &dyn fmt::Display) {
        tracing::info!(
            by = self.name(),
            from = %self.peer,
            change = what,
            before = %before,
            after = %after,
            "changed by an operator"
        );
    }
}
