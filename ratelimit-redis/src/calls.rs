//! What a program that measures its store is told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ratelimit_core::StoreErrorKind;

/// One call of the store, which is over. Under load it carries many requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// From sending it to its end.
    pub took: Duration,
    /// Requests that it carried: decisions, and charges that nobody waits for. Of a call that carries none, such
    /// as the replicas' roll call, nothing is told.
    pub requests: usize,
    /// Of these, requests whose key holds what is not ours.
    pub foreign: usize,
    /// What kept the store from answering; `None` if it did.
    pub failed: Option<StoreErrorKind>,
}

/// Whom to tell.
#[derive(Clone)]
pub(crate) struct Observer(Arc<dyn Fn(&Call) + Send + Sync>);

impl Observer {
    pub(crate) fn new(tell: impl Fn(&Call) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(crate) fn tell(&self, call: &Call) {
        (self.0)(call);
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
