//! `check`: whether a configuration can be run.

use super::arguments::Check;
use super::{Exit, Failure, print, run};

pub(super) fn check(arguments: &Check) -> Result<Exit, Failure> {
    let config = run::load(&arguments.config)?.config;
    let limits = config.limits.iter().filter(|limit| !limit.off).count();
    print(format_args!("{}: fine, {limits} limits in force", arguments.config.display()))?;
    Ok(Exit::Fine)
}
