//! [`Refused`]: why nothing was changed.

use std::fmt;
use std::io;

use ratelimit_core::StoreError;

use super::MOST;
use crate::policy::KeyFault;

/// Why nothing was changed.
#[derive(Debug)]
pub(crate) enum Refused {
    /// There is no such limit.
    Limit {
        /// What was asked for.
        name: String,
        /// The nearest there is.
        nearest: Option<String>,
    },
    /// The text is no key of the limit.
    Key(KeyFault),
    /// The limit can't give that.
    Unfit(String),
    /// The key has no override that could be taken back.
    Nothing,
    /// There are too many already.
    Full,
    /// The store could not be asked.
    Store(StoreError),
    /// The file could not be written.
    File(io::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit { name, nearest: Some(nearest) } => {
                write!(f, "there is no limit {name:?}; did you mean {nearest}?")
            }
            Self::Limit { name, nearest: None } => write!(f, "there is no limit {name:?}"),
            Self::Key(fault) => fault.fmt(f),
            Self::Unfit(what) => f.write_str(what),
            Self::Nothing => f.write_str("the key has no override that was given at run time"),
            Self::Full => {
                write!(f, "there are {MOST} overrides already: take some back, or write them into the file")
            }
            Self::Store(error) => write!(f, "nothing was changed, as the store could not be asked: {error}"),
            Self::File(error) => write!(f, "nothing was changed: overrides can't be kept: {error}"),
        }
    }
}
