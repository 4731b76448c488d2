//! `/debug/profile`: where the processor's time goes, as a flame graph.

use std::time::Duration;

use http::StatusCode;
use tokio::sync::Mutex;
use tokio::task::{JoinError, spawn_blocking};

use super::reply::{Answer, SVG, refusal, response};
use crate::steer::By;
use crate::telemetry::profile::Profile;

/// How long one takes if nothing is said, and at most: a connection has to live that long.
const SECONDS: (u64, u64) = (5, 25);

/// There is one signal for it in a process.
static ONE: Mutex<()> = Mutex::const_new(());

/// A profile of that many seconds.
pub(super) async fn profile(seconds: Option<&str>, by: By) -> Answer {
    let seconds = seconds.map_or(Some(SECONDS.0), |text| text.parse().ok());
    let Some(seconds) = seconds.filter(|seconds| (1..=SECONDS.1).contains(seconds)) else {
        let detail = format!("seconds is a whole number from 1 to {}", SECONDS.1);
        return Err(refusal(StatusCode::UNPROCESSABLE_ENTITY, &detail));
    };
    let Ok(_one) = ONE.try_lock() else {
        return Err(refusal(StatusCode::CONFLICT, "a profile is being made, and there is one at a time"));
    };
    by.asks("profile");
    // Both take a while without waiting, and others are served meanwhile.
    let running = done(spawn_blocking(Profile::start).await)?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let svg = done(spawn_blocking(|| running.finish()).await)?;
    Ok(response(StatusCode::OK, SVG, svg))
}

fn done<T>(result: Result<Result<T, String>, JoinError>) -> Answer<T> {
    let result = result.unwrap_or_else(|_| Err("it broke off".to_owned()));
    result.map_err(|why| refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("there is no profile: {why}")))
}
