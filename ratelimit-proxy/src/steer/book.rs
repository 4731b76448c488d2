//! [`Book`]: the overrides that operators gave while the proxy ran, as data: what was given to which key, when, and
//! until when. Pure: no clock, no store, no file.
//!
//! Of two records for one key the one with the later stamp counts, wherever they come from. So books can be merged in
//! any order, and what was taken back stays so (a record that gives nothing) until nobody can know of it any more.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::str::FromStr;

use jiff::Timestamp;
use ratelimit_core::{Algorithm, Limit, Rate};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::Quota;
use crate::policy::{Live, Rule};

/// Most overrides at a time.
pub(crate) const MOST: usize = 10_000;
/// How long it is remembered that something was taken back, in microseconds: a day.
const MEMORY: u64 = 86_400_000_000;

/// A key of a limit: the limit's name, and the normal text of the key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Id {
    /// The limit's name.
    pub(crate) limit: String,
    /// As [`crate::policy::WrittenKey::text`] has it.
    pub(crate) key: String,
}

/// What was said about a key last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// What it gets; `None`: nothing of its own any more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) gives: Option<Gives>,
    /// When that was said, in microseconds since the epoch; unique for a key.
    #[serde(default)]
    pub(crate) stamp: u64,
}

/// What a key gets: one of rate (and burst), concurrency, unlimited and deny.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gives {
    #[serde(with = "text", skip_serializing_if = "Option::is_none", default)]
    pub(crate) rate: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) burst: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) concurrency: Option<u32>,
    #[serde(skip_serializing_if = "is_false", default)]
    pub(crate) unlimited: bool,
    #[serde(skip_serializing_if = "is_false", default)]
    pub(crate) deny: bool,
    /// From when on it is over; never if absent.
    #[serde(with = "text", skip_serializing_if = "Option::is_none", default)]
    pub(crate) until: Option<Timestamp>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Values that are written as text.
mod text {
    use super::{Deserialize, Deserializer, Display, FromStr, Serializer};

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        let written = Option::<String>::deserialize(deserializer)?;
        let parse = |text: String| {
            text.parse::<T>().map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}")))
        };
        written.map(parse).transpose()
    }
}

/// Why a key can't get what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfit(pub(crate) String);

impl Gives {
    /// The quota of that limit that it means.
    pub(crate) fn quota(&self, limit: &Limit) -> Result<Quota, Unfit> {
        let Self { rate, burst, concurrency, unlimited, deny, until: _ } = self;
        let given = [
            (rate.is_some() || burst.is_some(), "rate"),
            (concurrency.is_some(), "concurrency"),
            (*unlimited, "unlimited"),
            (*deny, "deny"),
        ];
        let kinds: Vec<_> = given.iter().filter(|(given, _)| *given).map(|(_, kind)| *kind).collect();
        let [kind] = kinds.as_slice() else {
            let what = if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(" and ") };
            return Err(Unfit(format!(
                "it gives {what}: write one of rate (with burst, if it is to differ), concurrency, unlimited: true \
                 and deny: true"
            )));
        };
        let algorithm = limit.spec().algorithm;
        match *kind {
            "unlimited" => return Ok(Quota::Unlimited),
            "deny" => return Ok(Quota::Deny),
            kind if (algorithm == Algorithm::Concurrency) != (kind == "concurrency") => {
                return Err(Unfit(format!("the limit is of the kind {algorithm}: it has no {kind}")));
            }
            _ if burst.is_some() && algorithm != Algorithm::TokenBucket => {
                return Err(Unfit(format!("{algorithm} has no burst: only token_bucket has one")));
            }
            _ => {}
        }
        Quota::of(limit, *rate, *burst, *concurrency).map_err(|error| Unfit(error.to_string()))
    }

    /// Whether it still holds then.
    pub(crate) fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// In words: `5/s, burst 10, until 2026-01-01T00:00:00Z`.
impl Display for Gives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, burst, concurrency, unlimited, deny, until } = self;
        let mut words = Vec::new();
        words.extend(rate.map(|rate| rate.to_string()));
        words.extend(burst.map(|burst| format!("burst {burst}")));
        words.extend(concurrency.map(|permits| format!("{permits} at a time")));
        words.extend(unlimited.then(|| "unlimited".to_owned()));
        words.extend(deny.then(|| "denied".to_owned()));
        words.extend(until.map(|until| format!("until {until}")));
        f.write_str(&words.join(", "))
    }
}

/// All records, and what time it was when they were put in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    records: BTreeMap<Id, Record>,
    at: Timestamp,
}

impl Book {
    /// The records, the ones that were taken back and those that are over included.
    pub(crate) fn records(&self) -> impl Iterator<Item = (&Id, &Record)> {
        self.records.iter()
    }

    /// What was said about a key.
    #[cfg(test)]
    pub(crate) fn record(&self, id: &Id) -> Option<&Record> {
        self.records.get(id)
    }

    /// What a key gets at the time of the book.
    pub(crate) fn gives(&self, id: &Id) -> Option<&Gives> {
        self.records.get(id)?.gives.as_ref().filter(|gives| gives.holds(self.at))
    }

    /// What is in force for a limit's keys, in the order of their texts.
    pub(crate) fn in_force<'b>(&'b self, limit: &'b str) -> impl Iterator<Item = (&'b str, &'b Gives)> {
        let first = Id { limit: limit.to_owned(), key: String::new() };
        let of_limit = self.records.range(first..).take_while(move |(id, _)| id.limit == limit);
        of_limit.filter_map(|(id, record)| {
            let gives = record.gives.as_ref().filter(|gives| gives.holds(self.at))?;
            Some((&*id.key, gives))
        })
    }

    /// How many are in force.
    pub(crate) fn count(&self) -> usize {
        let holds = |record: &&Record| record.gives.as_ref().is_some_and(|gives| gives.holds(self.at));
        self.records.values().filter(holds).count()
    }

    /// The overrides of a limit as its requests are judged by. One that does not fit the limit any more is passed
    /// over.
    pub(crate) fn of(&self, rule: &Rule) -> Live {
        let entry = |(text, gives): (&str, &Gives)| {
            let key = rule.key_from_text(text).ok()?;
            Some((key.into_overridden(), gives.quota(&rule.limit).ok()?))
        };
        Live::new(self.in_force(rule.limit.name()).filter_map(entry).collect())
    }

    /// At that time.
    pub(crate) fn at(mut self, now: Timestamp) -> Self {
        self.at = now;
        self
    }

    /// Takes a record in, unless a later one is there; whether it did.
    pub(crate) fn take(&mut self, id: Id, record: Record) -> bool {
        let newer = self.records.get(&id).is_none_or(|known| known.stamp < record.stamp);
        if newer {
            self.records.insert(id, record);
        }
        newer
    }

    /// Forgets a record.
    pub(crate) fn drop(&mut self, id: &Id) {
        self.records.remove(id);
    }

    /// A stamp that is later than all for that key.
    pub(crate) fn stamp(&self, id: &Id, now: Timestamp) -> u64 {
        let least = self.records.get(id).map_or(0, |record| record.stamp + 1);
        micros(now).max(least)
    }

    /// Those that are over and still written.
    pub(crate) fn over(&self) -> Vec<(Id, Record)> {
        let over = |record: &Record| record.gives.as_ref().is_some_and(|gives| !gives.holds(self.at));
        let all = self.records.iter().filter(|(_, record)| over(record));
        all.map(|(id, record)| (id.clone(), record.clone())).collect()
    }

    /// When the next one is over.
    pub(crate) fn next_end(&self) -> Option<Timestamp> {
        let ends = self.records.values().filter_map(|record| record.gives.as_ref()?.until);
        ends.filter(|until| *until > self.at).min()
    }

    /// Forgets what was taken back long ago.
    pub(crate) fn prune(&mut self) {
        self.records.retain(|_, record| record.gives.is_some() || !is_old(record.stamp, self.at));
    }
}

/// Whether something that was taken back then is not remembered any more.
pub(crate) fn is_old(stamp: u64, now: Timestamp) -> bool {
    stamp.saturating_add(MEMORY) < micros(now)
}

fn micros(time: Timestamp) -> u64 {
    u64::try_from(time.as_microsecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LimitConfig;
    use crate::config::words::KeyPart;

    fn id(limit: &str, key: &str) -> Id {
        Id { limit: limit.to_owned(), key: key.to_owned() }
    }

    fn record(json: &str, stamp: u64) -> Record {
        Record { gives: Some(serde_json::from_str(json).unwrap()), stamp }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn the_later_record_counts_in_whatever_order() {
        let one = record(r#"{"rate":"5/s"}"#, 10);
        let two = Record { gives: None, stamp: 11 };
        let three = record(r#"{"deny":true}"#, 12);
        for order in [[&one, &two, &three], [&three, &one, &two], [&two, &three, &one]] {
            let mut book = Book::default();
            for record in order {
                book.take(id("a", "x"), Record::clone(record));
            }
            assert_eq!(book.record(&id("a", "x")), Some(&three));
            assert!(!book.take(id("a", "x"), three.clone()), "once is enough");
            assert_eq!(book.stamp(&id("a", "x"), at(0)), 13);
        }
    }

    #[test]
    fn what_is_over_is_not_in_force() {
        let mut book = Book::default();
        book.take(id("a", "x"), record(r#"{"unlimited":true,"until":"1970-01-01T00:01:40Z"}"#, 1));
        book.take(id("a", "y"), record(r#"{"unlimited":true}"#, 1));
        book.take(id("b", "x"), record(r#"{"deny":true}"#, 1));
        let book = book.at(at(99));
        assert_eq!(book.in_force("a").map(|(key, _)| key).collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!((book.next_end(), book.over().len(), book.count()), (Some(at(100)), 0, 3));
        let book = book.at(at(100));
        assert_eq!(book.in_force("a").map(|(key, _)| key).collect::<Vec<_>>(), ["y"]);
        assert_eq!((book.next_end(), book.over().len(), book.count()), (None, 1, 2));
        assert!(book.gives(&id("a", "x")).is_none() && book.gives(&id("b", "x")).is_some());
    }

    #[test]
    fn what_was_taken_back_is_forgotten_after_a_day() {
        let mut book = Book::default();
        book.take(id("a", "x"), Record { gives: None, stamp: 1_000_000 });
        book.take(id("a", "y"), record(r#"{"deny":true}"#, 1_000_000));
        book = book.at(at(86_401));
        book.prune();
        assert_eq!(book.records().count(), 2);
        book = book.at(at(86_402));
        book.prune();
        assert_eq!(book.records().map(|(id, _)| &*id.key).collect::<Vec<_>>(), ["y"]);
    }

    #[test]
    fn what_a_limit_can_not_give_is_refused() {
        let bucket = Limit::new("l", Rate::per_second(10));
        let window = bucket.algorithm(Algorithm::FixedWindow);
        let permits = Limit::concurrency("l", 4);
        for (limit, json, words) in [
            (&bucket, "{}", "it gives nothing"),
            (&bucket, r#"{"rate":"5/s","deny":true}"#, "it gives rate and deny"),
            (&bucket, r#"{"concurrency":5}"#, "token_bucket: it has no concurrency"),
            (&bucket, r#"{"burst":0}"#, "burst must be at least 1"),
            (&bucket, r#"{"rate":"1/week","burst":4000000000}"#, "years to refill"),
            (&window, r#"{"burst":5}"#, "fixed_window has no burst"),
            (&permits, r#"{"rate":"5/s"}"#, "concurrency: it has no rate"),
        ] {
            let gives: Gives = serde_json::from_str(json).unwrap();
            let fault = gives.quota(limit).unwrap_err().0;
            assert!(fault.contains(words), "{json}: {fault}");
        }
        for json in [r#"{"brust":1}"#, r#"{"rate":"5/x"}"#, r#"{"rate":5}"#, r#"{"until":"tomorrow"}"#] {
            assert!(serde_json::from_str::<Gives>(json).is_err(), "{json}");
        }
        let gives: Gives = serde_json::from_str(r#"{"burst":7}"#).unwrap();
        assert!(matches!(gives.quota(&bucket), Ok(Quota::Limit(limit)) if limit.capacity() == 7));
    }

    #[test]
    fn a_record_that_does_not_fit_its_limit_any_more_is_passed_over() {
        let mut book = Book::default();
        book.take(id("l", "192.0.2.1"), record(r#"{"deny":true}"#, 1));
        book.take(id("l", "gold"), record(r#"{"deny":true}"#, 1));
        book.take(id("l", "192.0.2.2"), record(r#"{"concurrency":1}"#, 1));
        let limit = Limit::new("l", Rate::per_second(1));
        let config = |key: &str| LimitConfig {
            key: vec![KeyPart::One(key.parse().unwrap())],
            ..LimitConfig::new(limit.clone())
        };
        let of = |key: &str| {
            let policy =
                crate::policy::Policy::build(&crate::config::ClientIp::default(), &[], &[config(key)]);
            let rule = &policy.rules()[0];
            let live = book.of(rule);
            ["192.0.2.1", "gold", "192.0.2.2"]
                .map(|text| rule.key_from_text(text).is_ok_and(|key| live.find(key.key()).is_some()))
        };
        assert_eq!(of("client.ip"), [true, false, false]);
        assert_eq!(of("header.k"), [true, true, false]);
    }
}
