//! `schema`: the language of the configuration, for editors.

use super::{Exit, Failure, print, shim};

pub(super) fn schema() -> Result<Exit, Failure> {
    print(format_args!("{:#}", shim::schema()))?;
    Ok(Exit::Fine)
}
