//! [`Live`]: other quotas for single keys of a limit, given while the proxy runs. They win over what the file says.
//!
//! Immutable like everything else of a policy: a change makes another one. Keys are found by search in order, and
//! nothing is searched for in a limit that has none.

use ratelimit_core::{Key, KeyBuf};

use crate::config::Quota;

/// The overrides of a limit that are in force.
#[derive(Clone, Debug, Default)]
pub struct Live(Box<[(KeyBuf, Quota)]>);

impl Live {
    /// These. Of several for one key the last counts.
    #[must_use]
    pub fn new(mut entries: Vec<(KeyBuf, Quota)>) -> Self {
        entries.reverse();
        entries.sort_by(|(a, _), (b, _)| a.key().cmp(&b.key()));
        entries.dedup_by(|(a, _), (b, _)| a == b);
        Self(entries.into())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What that key gets.
    pub(crate) fn find(&self, key: Key<'_>) -> Option<&Quota> {
        let at = self.0.binary_search_by(|(known, _)| known.key().cmp(&key)).ok()?;
        self.0.get(at).map(|(_, quota)| quota)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratelimit_core::AsKey as _;

    fn key(text: &str) -> KeyBuf {
        let mut key = KeyBuf::new();
        text.encode(&mut key);
        key
    }

    #[test]
    fn the_last_for_a_key_counts_and_no_other_key_has_it() {
        let entry = |text: &str, quota| (key(text), quota);
        let mut entries: Vec<_> = (0..100).map(|number| entry(&format!("k{number}"), Quota::Deny)).collect();
        entries.push(entry("k7", Quota::Unlimited));
        let live = Live::new(entries);
        assert!(matches!(live.find(key("k7").key()), Some(Quota::Unlimited)));
        assert!(matches!(live.find(key("k99").key()), Some(Quota::Deny)));
        assert!(live.find(key("k100").key()).is_none() && live.find(Key::GLOBAL).is_none());
        assert!(Live::default().is_empty() && Live::default().find(key("k").key()).is_none());
    }
}
