//! Stand-ins for what others are building: the compiled policy. To be deleted
//! when those are merged.

use std::fmt;

use ratelimit_core::KeyBuf;

use crate::config::Config;
use crate::facts::Facts;
use crate::policy::Policy;

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
