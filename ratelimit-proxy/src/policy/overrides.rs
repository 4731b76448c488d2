//! [`Overrides`]: other quotas for some keys. The first in the file that fits wins.
//!
//! Overrides of exact values, with or without parts that may be anything, are found by hash however many there
//! are: one look for each set of exact parts in use. Only patterns with a `*` inside and networks are tried
//! one by one, and of these only those that come before the one that was found by hash.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};

use smallvec::SmallVec;

use super::key::Found;
use super::pattern::Pattern;
use super::source::Value;
use crate::config::{Override, Quota};

/// The compiled overrides of a limit.
#[derive(Clone, Debug, Default)]
pub(super) struct Overrides {
    all: Box<[Entry]>,
    shapes: Vec<Shape>,
    /// Those that no shape holds, in order.
    others: Vec<usize>,
    random: RandomState,
}

#[derive(Clone, Debug)]
struct Entry {
    patterns: Box<[Pattern]>,
    quota: Quota,
}

/// The overrides that name exact values for these parts and take anything for the others.
#[derive(Clone, Debug)]
struct Shape {
    parts: Box<[usize]>,
    /// By the hash of the exact values; in order where hashes are equal.
    entries: HashMap<u64, SmallVec<[usize; 1]>>,
}

impl Overrides {
    /// `addresses`: for each part of the key, whether it can be the client's address.
    pub(super) fn new(overrides: &[Override], addresses: &[bool], ipv6_prefix: u8) -> Self {
        let entry = |written: &Override| {
            let parts = written.key.iter().zip(addresses.iter().chain(std::iter::repeat(&false)));
            let pattern = |(glob, address): (_, &bool)| {
                if *address { Pattern::address(glob, ipv6_prefix) } else { Pattern::text(glob) }
            };
            Entry { patterns: parts.map(pattern).collect(), quota: written.quota.clone() }
        };
        let mut compiled = Self { all: overrides.iter().map(entry).collect(), ..Self::default() };
        for (number, entry) in compiled.all.iter().enumerate() {
            let hashed = |pattern: &Pattern| !matches!(pattern, Pattern::Glob(_) | Pattern::Network(_));
            if !entry.patterns.iter().all(hashed) {
                compiled.others.push(number);
                continue;
            }
            let exact = |(part, pattern)| (!matches!(pattern, &Pattern::Any)).then_some(part);
            let parts: Box<[usize]> = entry.patterns.iter().enumerate().filter_map(exact).collect();
            let hash = hash(&compiled.random, entry.patterns.iter().filter_map(Exact::of_pattern));
            let shape = match compiled.shapes.iter_mut().find(|shape| shape.parts == parts) {
                Some(shape) => shape,
                None => compiled.shapes.push_mut(Shape { parts, entries: HashMap::new() }),
            };
            shape.entries.entry(hash).or_default().push(number);
        }
        compiled
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The first that fits, with its number.
    pub(super) fn find(&self, values: &[Found<'_>]) -> Option<(usize, &Quota)> {
        let by_hash = self.shapes.iter().filter_map(|shape| self.exact(shape, values)).min();
        let before = |number: &&usize| by_hash.is_none_or(|known| **number < known);
        let by_order = self.others.iter().take_while(before).find(|number| self.fits(**number, values));
        let number = by_order.copied().or(by_hash)?;
        self.all.get(number).map(|entry| (number, &entry.quota))
    }

    fn exact(&self, shape: &Shape, values: &[Found<'_>]) -> Option<usize> {
        let mut wanted = SmallVec::<[Exact<'_>; 4]>::new();
        for part in &shape.parts {
            wanted.push(Exact::of_value(values.get(*part)?.value.as_ref()?));
        }
        let candidates = shape.entries.get(&hash(&self.random, wanted.into_iter()))?;
        candidates.iter().copied().find(|number| self.fits(*number, values))
    }

    fn fits(&self, number: usize, values: &[Found<'_>]) -> bool {
        let Some(entry) = self.all.get(number) else { return false };
        entry.patterns.iter().zip(values).all(|(pattern, found)| pattern.fits(found.value.as_ref()))
    }
}

/// What is hashed of an exact value.
#[derive(Hash)]
enum Exact<'v> {
    Text(&'v [u8]),
    Address(std::net::IpAddr),
}

impl<'v> Exact<'v> {
    fn of_value(value: &'v Value<'_>) -> Self {
        match value {
            Value::Text(text) => Self::Text(text),
            Value::Address(address) => Self::Address(*address),
        }
    }

    fn of_pattern(pattern: &'v Pattern) -> Option<Self> {
        match pattern {
            Pattern::Text(text) => Some(Self::Text(text)),
            Pattern::Address(address) => Some(Self::Address(*address)),
            Pattern::Any | Pattern::Network(_) | Pattern::Glob(_) => None,
        }
    }
}

fn hash<'v>(random: &RandomState, values: impl Iterator<Item = Exact<'v>>) -> u64 {
    let mut hasher = random.build_hasher();
    values.for_each(|value| value.hash(&mut hasher));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::words::Glob;
    use proptest::prelude::*;
    use std::borrow::Cow;

    fn overrides(keys: &[Vec<String>]) -> Vec<Override> {
        let one =
            |key: &Vec<String>| Override { key: key.iter().map(Glob::new).collect(), quota: Quota::Deny };
        keys.iter().map(one).collect()
    }

    fn text(value: Option<&str>) -> Found<'_> {
        Found { value: value.map(|text| Value::Text(Cow::Borrowed(text.as_bytes()))), source: None }
    }

    #[test]
    fn the_first_in_the_file_wins() {
        let keys: Vec<Vec<String>> = [["gold", "*"], ["g*", "a"], ["gold", "a"], ["silver", "b"], ["*", "b"]]
            .iter()
            .map(|key| key.iter().map(ToString::to_string).collect())
            .collect();
        let compiled = Overrides::new(&overrides(&keys), &[false, false], 64);
        for (key, number) in [
            (["gold", "a"], Some(0)),
            (["gold", "b"], Some(0)),
            (["grey", "a"], Some(1)),
            (["silver", "b"], Some(3)),
            (["tin", "b"], Some(4)),
            (["tin", "c"], None),
        ] {
            let values = key.map(|value| text(Some(value)));
            assert_eq!(compiled.find(&values).map(|(number, _)| number), number, "{key:?}");
        }
        let partly = |value| [text(Some(value)), text(None)];
        assert_eq!(compiled.find(&partly("gold")).map(|(number, _)| number), Some(0));
        assert!(compiled.find(&partly("silver")).is_none());
    }

    proptest! {
        /// The index agrees with trying one after the other.
        #[test]
        fn an_index_of_the_same_list(
            keys in prop::collection::vec(prop::collection::vec("[ab*]{1,2}", 2), 0..12),
            value in prop::collection::vec(prop::option::of("[ab]{0,2}"), 2),
        ) {
            let compiled = Overrides::new(&overrides(&keys), &[false, false], 64);
            let values: Vec<_> = value.iter().map(|value| text(value.as_deref())).collect();
            let expected = keys.iter().position(|key| key.iter().zip(&value).all(|(glob, value)| {
                match value {
                    Some(value) => Glob::new(glob).fits(value.as_bytes()),
                    None => glob == "*",
                }
            }));
            prop_assert_eq!(compiled.find(&values).map(|(number, _)| number), expected);
        }
    }
}
