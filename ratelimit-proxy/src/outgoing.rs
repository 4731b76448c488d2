//! What our own requests have in common, to whomever they go: issuers of tokens, collectors, servers that are checked.

use std::error::Error;
use std::fmt;

/// Who asks, as `User-Agent` says it.
pub(crate) const AGENT: &str = concat!("ratelimit-proxy/", env!("CARGO_PKG_VERSION"));

/// An error with what is below it: hyper says what it did, and why that failed stands below.
pub(crate) struct Causes<'e>(pub(crate) &'e (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
