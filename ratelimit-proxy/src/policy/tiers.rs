//! [`Tiers`]: other quotas by what some value of a request says, such as the plan in its token.

use std::collections::HashMap;

use super::source::{Reader, Value};
use crate::config::Quota;
use crate::config::words::PathPattern;
use crate::facts::Facts;

/// The compiled tiers of a limit.
#[derive(Clone, Debug)]
pub(super) struct Tiers {
    by: Reader,
    all: Box<[(String, Quota)]>,
    numbers: HashMap<Vec<u8>, usize>,
    default: Option<usize>,
}

impl Tiers {
    pub(super) fn new(
        written: &crate::config::Tiers,
        pattern: Option<&PathPattern>,
        ipv6_prefix: u8,
    ) -> Self {
        let numbered = written.tiers.iter().enumerate();
        Self {
            by: Reader::new(&written.by, pattern, ipv6_prefix),
            all: written.tiers.as_slice().into(),
            numbers: numbered.map(|(number, (name, _))| (name.clone().into_bytes(), number)).collect(),
            default: written.default,
        }
    }

    /// The quota of the tier that a request is in, with its number.
    pub(super) fn find(&self, facts: &Facts<'_>) -> Option<(usize, &Quota)> {
        // A value that is there twice and differs names no tier.
        let number = match self.by.read(facts).ok().flatten() {
            Some(Value::Text(text)) => self.numbers.get(&*text),
            Some(Value::Address(address)) => self.numbers.get(address.to_string().as_bytes()),
            None => None,
        };
        let number = number.copied().or(self.default)?;
        self.all.get(number).map(|(_, quota)| (number, quota))
    }

    /// The name of a tier.
    pub(super) fn name(&self, number: usize) -> &str {
        self.all.get(number).map_or("", |(name, _)| name)
    }

    pub(super) const fn reader(&self) -> &Reader {
        &self.by
    }
}
