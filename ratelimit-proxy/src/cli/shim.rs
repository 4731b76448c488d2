//! Stand-ins for what others are building: the configuration's parser and the compiled policy. To be deleted
//! when those are merged.

use std::convert::Infallible;
use std::fmt;
use std::path::Path;

use ratelimit_core::{KeyBuf, Limit, LimitSpec};

use crate::config::{Config, LimitConfig};
use crate::facts::Facts;
use crate::policy::Policy;

pub(super) struct Loaded {
    pub(super) config: Config,
    pub(super) warnings: Vec<Infallible>,
}

pub(super) fn load_file(path: &Path) -> Result<Loaded, Vec<String>> {
    Err(vec![format!("{}: configuration files are not available yet", path.display())])
}

pub(super) fn limit_from_short(text: &str, number: usize) -> Result<LimitConfig, String> {
    let rate = text.strip_suffix(" by client.ip").ok_or("only `RATE by client.ip` is available yet")?;
    let rate = rate.parse().map_err(|error| format!("{error}"))?;
    let spec = LimitSpec::new(format!("limit-{number}"), rate);
    Ok(LimitConfig::by_client(Limit::try_from(spec).map_err(|error| error.to_string())?))
}

pub(super) fn schema() -> serde_json::Value {
    serde_json::json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object" })
}

pub(crate) fn policy(config: &Config) -> Policy {
    Policy::of(config.limits.iter().filter(|limit| !limit.off).map(|limit| limit.limit.clone()).collect())
}

#[derive(serde::Serialize)]
pub(super) struct Explanation {
    limits: usize,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} limits match", self.limits)
    }
}

pub(super) fn explain(policy: &Policy, facts: &Facts<'_>, keys: &mut KeyBuf) -> Explanation {
    Explanation { limits: policy.select(facts, keys).map_or(0, |selection| selection.hits.len()) }
}
