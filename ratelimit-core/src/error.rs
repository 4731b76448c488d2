//! What can go wrong when a decision is asked for. A denial is not an error; it is a
//! [`Decision`](crate::Decision).

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

/// A store could not answer.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    context: Cow<'static, str>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// Of which kind a store's trouble is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// No answer in time. Whether the charge was made is not known.
    Timeout,
    /// The store can't be reached, or says that it can't serve now.
    Unavailable,
    /// It refuses us until somebody changes its configuration or ours.
    Misconfigured,
    /// Something that is not ours lies where the state should be.
    ForeignData,
    /// It answered what nobody should answer.
    Protocol,
    /// Too many decisions are waiting for it already.
    Overloaded,
}

impl StoreError {
    /// An error of that kind; `context` says what was being done.
    #[must_use]
    pub fn new(kind: StoreErrorKind, context: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// The same with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            StoreErrorKind::Timeout => "the store did not answer in time",
            StoreErrorKind::Unavailable => "the store is unavailable",
            StoreErrorKind::Misconfigured => "the store refuses us",
            StoreErrorKind::ForeignData => "the store holds data that is not ours",
            StoreErrorKind::Protocol => "the store gave an answer that makes no sense",
            StoreErrorKind::Overloaded => "too many decisions wait for the store",
        };
        write!(f, "{kind}: {}", self.context)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

/// A check could not be decided.
#[derive(Debug)]
#[non_exhaustive]
pub enum CheckError {
    /// The cost is above what the limit can ever hold, so waiting does not help.
    CostExceedsLimit {
        /// Name of the limit.
        limit: String,
        /// What was asked for.
        cost: u32,
        /// What the limit holds when it is full.
        capacity: u32,
    },
    /// The store could not answer.
    Store(StoreError),
}

impl From<StoreError> for CheckError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CostExceedsLimit { limit, cost, capacity } => {
                write!(
                    f,
                    "a cost of {cost} can never be admitted: the limit {limit:?} holds {capacity} at most"
                )
            }
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl Error for CheckError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::CostExceedsLimit { .. } => None,
            Self::Store(error) => error.source(),
        }
    }
}
