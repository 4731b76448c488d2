//! `schema`: the language of the configuration, for editors.

use super::{Exit, Failure, print};
use crate::config;

pub(super) fn schema() -> Result<Exit, Failure> {
    print(format_args!("{:#}", config::schema()))?;
    Ok(Exit::Fine)
}
