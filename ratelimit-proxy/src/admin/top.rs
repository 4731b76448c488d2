//! `GET /api/limits/{name}/keys`: the keys that are denied most, or that have used most of what they have.

use std::collections::HashMap;

use futures_util::future::join_all;
use http::StatusCode;
use ratelimit_core::KeyBuf;
use serde::Serialize;

use super::keys::{Left, left, refused};
use super::reply::{Answer, json, refusal};
use super::view::View;
use crate::policy::ExplainedPart;
use crate::steer::Steered;
use crate::telemetry::top::{Event, PLACES, Place};

/// Keys that are told unless it is said how many.
const TOP: usize = 50;

#[derive(Debug, Serialize)]
struct Keys {
    limit: String,
    by: &'static str,
    keys: Vec<KeyView>,
}

#[derive(Debug, Serialize)]
struct KeyView {
    /// How the key is written in a path.
    path: String,
    key: Vec<ExplainedPart>,
    /// How often it was denied since the start, at most.
    denied: u64,
    /// How often it was admitted with less than a fifth left, at most.
    near: u64,
    /// By how much the number that was asked for may be too high, as only so many keys are followed.
    at_most_too_high: u64,
    /// Units that are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<u32>,
    #[serde(flatten)]
    left: Option<Left>,
}

/// The first of them.
pub(super) async fn keys(view: &View, limit: &str, by: Option<String>, top: Option<String>) -> Answer {
    let bad = |detail: &str| refusal(StatusCode::BAD_REQUEST, detail);
    let (event, by) = match by.as_deref() {
        Some("denied") | None => (Event::Denied, "denied"),
        Some("used") => (Event::Near, "used"),
        Some(_) => return Err(bad("by is denied or used")),
    };
    let top = top.map_or(Some(TOP), |top| top.parse().ok().filter(|top| (1..=1000).contains(top)));
    let top = top.ok_or_else(|| bad("top is a number from 1 to 1000"))?;
    let steering = view.steering();
    steering.limit(limit).map_err(refused)?;
    // What is used most is among what comes near most often; which it is now is asked.
    let most = if event == Event::Denied { top } else { PLACES.max(top) };
    let metrics = &view.shared().metrics;
    let (places, other) = match event {
        Event::Denied => (metrics.top(limit, event, most), metrics.top(limit, Event::Near, PLACES)),
        Event::Near => (metrics.top(limit, event, most), metrics.top(limit, Event::Denied, PLACES)),
    };
    let other: HashMap<KeyBuf, u64> = other.into_iter().map(|place| (place.key, place.count)).collect();
    let known = |place: Place| steering.known(limit, &place.key).map(|steered| (place, steered));
    let seen: Vec<(Place, Steered)> = places.into_iter().filter_map(known).collect();
    let asked = join_all(seen.iter().map(|(_, steered)| left(steering, steered))).await;
    let mut keys = Vec::new();
    for ((place, steered), left) in seen.iter().zip(asked) {
        let left = left?;
        let others = other.get(&place.key).copied().unwrap_or(0);
        let (denied, near) = match event {
            Event::Denied => (place.count, others),
            Event::Near => (others, place.count),
        };
        keys.push(KeyView {
            path: steered.key.text().to_owned(),
            key: steered.rule().map(|rule| rule.parts_of(&steered.key)).unwrap_or_default(),
            denied,
            near,
            at_most_too_high: place.over,
            used: left.as_ref().map(Left::used),
            left,
        });
    }
    if event == Event::Near {
        let share = |key: &KeyView| key.left.as_ref().map_or(0.0, Left::share);
        keys.sort_by(|a, b| share(b).total_cmp(&share(a)));
    }
    keys.truncate(top);
    Ok(json(&Keys { limit: limit.to_owned(), by, keys }))
}
