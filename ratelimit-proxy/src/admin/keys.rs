//! `/api/limits/{name}/keys/{key}` and `/overrides/{key}`: what a key has left, a fresh start, another quota.

use http::StatusCode;
use ratelimit_core::Nanos;
use serde::Serialize;

use super::reply::{Answer, Reply, json, refusal};
use super::view::View;
use crate::config::Quota;
use crate::policy::{ExplainedPart, InForce};
use crate::steer::{By, Gives, Refused, Steered, Steering};

/// A key, what it gets, and what is left of it.
#[derive(Debug, Serialize)]
struct KeyView {
    limit: String,
    /// How the key is written in a path.
    path: String,
    key: Vec<ExplainedPart>,
    mode: &'static str,
    /// What it gets, in words, and where that stands.
    quota: String,
    quota_from: String,
    /// What it was given at run time.
    #[serde(skip_serializing_if = "Option::is_none")]
    r#override: Option<Gives>,
    unlimited: bool,
    denied: bool,
    #[serde(flatten)]
    left: Option<Left>,
}

/// What is left.
#[derive(Debug, Serialize)]
pub(super) struct Left {
    capacity: u32,
    /// Units, or permits, that are there.
    remaining: u32,
    /// Whether a request that costs 1 would be admitted.
    allowed: bool,
    /// Seconds until all is there.
    reset_after: f64,
    /// Seconds until a request that costs 1 would be admitted, if it would not be now.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<f64>,
    /// Who said so: the store, or this process alone.
    origin: String,
}

#[derive(Debug, Serialize)]
struct Overrides {
    limit: String,
    overrides: Vec<OverrideView>,
}

#[derive(Debug, Serialize)]
struct OverrideView {
    /// How the key is written in a path.
    path: String,
    key: Vec<ExplainedPart>,
    #[serde(flatten)]
    gives: Gives,
    /// Why it is not in force, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    unfit: Option<String>,
}

/// What a key has left.
pub(super) async fn look(steering: &Steering, limit: &str, key: &str) -> Answer {
    let steered = steering.counted(limit, key).map_err(refused)?;
    tell(steering, &steered).await
}

/// A fresh start.
pub(super) async fn reset(steering: &Steering, limit: &str, key: &str, by: By) -> Answer {
    let steered = steering.counted(limit, key).map_err(refused)?;
    steering.reset(&steered, by).await.map_err(refused)?;
    tell(steering, &steered).await
}

/// Another quota.
pub(super) async fn give(steering: &Steering, limit: &str, key: &str, gives: Gives, by: By) -> Answer {
    let steered = steering.key(limit, key).map_err(refused)?;
    steering.give(&steered, gives, by).await.map_err(refused)?;
    // As it is now.
    tell(steering, &steering.key(limit, key).map_err(refused)?).await
}

/// The quota that the file says.
pub(super) async fn take_back(steering: &Steering, limit: &str, key: &str, by: By) -> Answer {
    let steered = steering.key(limit, key).map_err(refused)?;
    steering.take_back(&steered, by).await.map_err(refused)?;
    tell(steering, &steering.key(limit, key).map_err(refused)?).await
}

/// All overrides of a limit that were given at run time.
pub(super) fn overrides(steering: &Steering, limit: &str) -> Answer {
    let (rules, number) = steering.limit(limit).map_err(refused)?;
    let Some(rule) = rules.policy.rules().get(number) else { return Err(refused(Refused::Nothing)) };
    let book = steering.book();
    let one = |(text, gives): (&str, &Gives)| {
        let key = rule.key_from_text(text);
        let unfit = match &key {
            Err(fault) => Some(fault.to_string()),
            Ok(_) => gives.quota(&rule.limit).err().map(|unfit| unfit.0),
        };
        let key = key.map(|key| rule.parts_of(&key)).unwrap_or_default();
        OverrideView { path: text.to_owned(), key, gives: gives.clone(), unfit }
    };
    Ok(json(&Overrides { limit: limit.to_owned(), overrides: book.in_force(limit).map(one).collect() }))
}

async fn tell(steering: &Steering, steered: &Steered) -> Answer {
    let (Some(rule), Some(InForce { quota, words, from })) = (steered.rule(), steered.in_force()) else {
        return Err(refused(Refused::Nothing));
    };
    let left = left(steering, steered).await?;
    Ok(json(&KeyView {
        limit: rule.limit.name().to_owned(),
        path: steered.key.text().to_owned(),
        key: rule.parts_of(&steered.key),
        mode: View::mode(&rule.limit, rule.mode() == crate::policy::RuleMode::Off),
        quota: words,
        quota_from: from,
        r#override: steering.given(steered),
        unlimited: matches!(quota, Quota::Unlimited),
        denied: matches!(quota, Quota::Deny),
        left,
    }))
}

/// What a key has left; `None` if nothing is counted for it.
pub(super) async fn left(steering: &Steering, steered: &Steered) -> Answer<Option<Left>> {
    let Some(InForce { quota: Quota::Limit(limit), .. }) = steered.in_force() else { return Ok(None) };
    let left = steering.left(steered).await.map_err(refused)?;
    let origin = left.as_ref().map(|verdict| format!("{:?}", verdict.origin).to_lowercase());
    let outcome = left.as_ref().and_then(|verdict| verdict.outcomes.first());
    Ok(outcome.map(|outcome| Left {
        capacity: limit.capacity(),
        remaining: outcome.remaining(),
        allowed: outcome.admitted,
        reset_after: seconds(outcome.reset_after),
        retry_after: outcome.retry_after.filter(|_| !outcome.admitted).map(seconds),
        origin: origin.unwrap_or_default(),
    }))
}

impl Left {
    /// Units that are used.
    pub(super) fn used(&self) -> u32 {
        self.capacity.saturating_sub(self.remaining)
    }

    /// The share that is used, by which keys are compared.
    pub(super) fn share(&self) -> f64 {
        f64::from(self.used()) / f64::from(self.capacity.max(1))
    }
}

fn seconds(time: Nanos) -> f64 {
    std::time::Duration::from(time).as_secs_f64()
}

/// Why nothing was changed, or there is nothing to be seen.
pub(super) fn refused(refused: Refused) -> Box<Reply> {
    let status = match &refused {
        Refused::Limit { .. } | Refused::Nothing => StatusCode::NOT_FOUND,
        Refused::Key(_) => StatusCode::BAD_REQUEST,
        Refused::Unfit(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Refused::Full => StatusCode::CONFLICT,
        Refused::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        Refused::File(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refusal(status, &refused.to_string())
}
