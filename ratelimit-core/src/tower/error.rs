//! [`LayerError`]: why a request could not be judged.

use std::error::Error;
use std::fmt;

use super::key::KeyError;
use crate::error::CheckError;

/// Why the layer could not judge a request. Lies in the extensions of the response that says so, as
/// `Arc<LayerError>`.
#[derive(Debug)]
#[non_exhaustive]
pub enum LayerError {
    /// There is no key to count the request by.
    Key(KeyError),
    /// The limits could not be asked, or the request costs more than one of them can ever hold.
    Check(CheckError),
}

impl From<KeyError> for LayerError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

impl From<CheckError> for LayerError {
    fn from(error: CheckError) -> Self {
        Self::Check(error)
    }
}

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(error) => error.fmt(f),
            Self::Check(error) => error.fmt(f),
        }
    }
}

impl Error for LayerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Key(error) => error.source(),
            Self::Check(error) => error.source(),
        }
    }
}
