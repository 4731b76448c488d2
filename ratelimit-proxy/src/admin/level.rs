//! `/api/log-level`: how much is logged, and how much is to be.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;

use super::reply::{Answer, Reply, json, refusal};
use crate::steer::By;
use crate::telemetry::log;

/// `off`, `error`, `warn`, `info`, `debug` or `trace`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Level {
    level: String,
}

/// How much is logged.
pub(super) fn look() -> Answer {
    let level = log::level().ok_or_else(unchangeable)?;
    Ok(json(&Level { level: level.to_string() }))
}

/// How much is to be logged from now on. The line about it is written under the one of both that says more.
pub(super) fn put(wanted: &Level, by: By) -> Answer {
    let before = log::level().ok_or_else(unchangeable)?;
    let words = ["off", "error", "warn", "info", "debug", "trace"];
    let level = wanted.level.to_ascii_lowercase();
    let level = words.contains(&&*level).then(|| level.parse::<LevelFilter>().ok()).flatten();
    let Some(level) = level else {
        let detail = format!("{:?} is no level: write one of {}", wanted.level, words.join(", "));
        return Err(refusal(StatusCode::UNPROCESSABLE_ENTITY, &detail));
    };
    let audit = || by.changes("log level", &before, &level);
    if level < before {
        audit();
    }
    log::set_level(level).map_err(|_| unchangeable())?;
    if level >= before {
        audit();
    }
    look()
}

fn unchangeable() -> Box<Reply> {
    refusal(StatusCode::CONFLICT, "the log of this process was started by somebody else")
}
