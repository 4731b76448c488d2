//! `demo`.

use super::arguments::Demo;
use super::{Exit, Failure};
use crate::telemetry::log::Style;

pub(super) fn demo(arguments: &Demo, _style: Style) -> Result<Exit, Failure> {
    Err(Failure::Failed(format!("not yet {arguments:?}")))
}
