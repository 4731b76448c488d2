//! [`Question`]: what Envoy asks, as it comes over the wire (`envoy/service/ratelimit/v3/rls.proto`,
//! `envoy/extensions/common/ratelimit/v3/ratelimit.proto`) and as JSON.
//!
//! The messages are declared anew, with bytes where Envoy's declare text: Envoy puts there what clients send, and
//! a question that is refused because a client sent bytes that are no text would let that client through unlimited.

use std::time::Duration;

use bytes::Bytes;
use ratelimit_core::Rate;
use serde::Deserialize;

use crate::policy::How;

/// A question.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Question {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) domain: Bytes,
    #[prost(message, repeated, tag = "2")]
    pub(crate) descriptors: Vec<Descriptor>,
    #[prost(uint32, tag = "3")]
    pub(crate) hits_addend: u32,
}

/// A list of entries, and what it costs.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Descriptor {
    #[prost(message, repeated, tag = "1")]
    pub(crate) entries: Vec<Entry>,
    #[prost(message, optional, tag = "2")]
    pub(crate) limit: Option<Override>,
    /// `google.protobuf.UInt64Value`.
    #[prost(message, optional, tag = "3")]
    pub(crate) hits_addend: Option<u64>,
    #[prost(bool, tag = "4")]
    pub(crate) is_negative_hits: bool,
}

/// A name and a value.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Entry {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

/// A quota that a descriptor brings along.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Override {
    #[prost(uint32, tag = "1")]
    pub(crate) requests_per_unit: u32,
    /// `envoy.type.v3.RateLimitUnit`.
    #[prost(int32, tag = "2")]
    pub(crate) unit: i32,
}

/// Names and seconds of `envoy.type.v3.RateLimitUnit`, by number.
const UNITS: [(&str, u64); 8] = [
    ("UNKNOWN", 0),
    ("SECOND", 1),
    ("MINUTE", 60),
    ("HOUR", 3_600),
    ("DAY", 86_400),
    ("MONTH", 30 * 86_400),
    ("YEAR", 365 * 86_400),
    ("WEEK", 7 * 86_400),
];

/// A quota that a descriptor brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Brought {
    /// That one.
    Rate(Rate),
    /// Nothing at all.
    Nothing,
    /// It names no unit.
    Senseless,
}

impl Descriptor {
    /// What it costs, and what is done with that.
    pub(super) fn cost(&self, of_question: u32) -> (u32, How) {
        let units = match self.hits_addend {
            Some(own) => u32::try_from(own).unwrap_or(u32::MAX),
            None => of_question.max(1),
        };
        match (units, self.is_negative_hits) {
            (0, _) => (0, How::Ask),
            (units, false) => (units, How::Charge),
            (units, true) => (units, How::GiveBack),
        }
    }
}

impl Override {
    /// The quota, up to `most`.
    pub(super) fn quota(self, most: Option<Rate>) -> Brought {
        let unit = usize::try_from(self.unit).ok().and_then(|unit| UNITS.get(unit));
        let Some((_, seconds @ 1..)) = unit.copied() else { return Brought::Senseless };
        if self.requests_per_unit == 0 {
            return Brought::Nothing;
        }
        // What is above the highest rate there is has that one.
        let rate = Rate::new(self.requests_per_unit, Duration::from_secs(seconds));
        let rate = rate.unwrap_or(Rate::per_second(ratelimit_core::MAX_PER_SECOND));
        Brought::Rate(match most {
            Some(most) if is_above(rate, most) => most,
            _ => rate,
        })
    }
}

/// Whether a rate is higher than another one.
fn is_above(rate: Rate, most: Rate) -> bool {
    let seconds = |rate: Rate| match rate.period() {
        ratelimit_core::Period::Seconds(seconds) => u64::from(seconds),
        _ => 30 * 86_400,
    };
    u64::from(rate.count()) * seconds(most) > u64::from(most.count()) * seconds(rate)
}

/// A question as JSON: names of proto3 or of the declaration, as `protojson` takes them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    domain: String,
    #[serde(default)]
    descriptors: Vec<WrittenDescriptor>,
    #[serde(default, alias = "hitsAddend")]
    hits_addend: Number,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDescriptor {
    #[serde(default)]
    entries: Vec<WrittenEntry>,
    #[serde(default)]
    limit: Option<WrittenOverride>,
    #[serde(default, alias = "hitsAddend")]
    hits_addend: Option<Number>,
    #[serde(default, alias = "isNegativeHits")]
    is_negative_hits: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEntry {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenOverride {
    #[serde(default, alias = "requestsPerUnit")]
    requests_per_unit: Number,
    #[serde(default)]
    unit: WrittenUnit,
}

/// A number, which may be written as text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Plain(u64),
    Text(String),
}

impl Default for Number {
    fn default() -> Self {
        Self::Plain(0)
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum WrittenUnit {
    Number(i32),
    Name(String),
}

impl Default for WrittenUnit {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl Number {
    fn get(&self) -> Result<u64, String> {
        match self {
            Self::Plain(number) => Ok(*number),
            Self::Text(text) => text.parse().map_err(|_| format!("{text:?} is not a number")),
        }
    }

    fn small(&self) -> Result<u32, String> {
        u32::try_from(self.get()?).map_err(|_| "a number is above 4294967295".to_owned())
    }
}

impl Question {
    /// The question that a JSON text is.
    ///
    /// # Errors
    /// Why it is none.
    pub(crate) fn from_json(text: &[u8]) -> Result<Self, String> {
        // A list would be taken for the fields in their order.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err("a question is an object".to_owned());
        }
        let written: Written = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let descriptors: Result<_, String> =
            written.descriptors.into_iter().map(Descriptor::try_from).collect();
        Ok(Self {
            domain: written.domain.into(),
            descriptors: descriptors?,
            hits_addend: written.hits_addend.small()?,
        })
    }
}

impl TryFrom<WrittenDescriptor> for Descriptor {
    type Error = String;

    fn try_from(written: WrittenDescriptor) -> Result<Self, String> {
        let entry = |entry: WrittenEntry| Entry { key: entry.key.into(), value: entry.value.into() };
        let limit = |limit: WrittenOverride| {
            let unit = match &limit.unit {
                WrittenUnit::Number(unit) => *unit,
                WrittenUnit::Name(name) => UNITS
                    .iter()
                    .position(|(known, _)| known == name)
                    .and_then(|unit| i32::try_from(unit).ok())
                    .ok_or_else(|| format!("{name:?} is no unit"))?,
            };
            Ok::<_, String>(Override { requests_per_unit: limit.requests_per_unit.small()?, unit })
        };
        Ok(Self {
            entries: written.entries.into_iter().map(entry).collect(),
            limit: written.limit.map(limit).transpose()?,
            hits_addend: written.hits_addend.map(|number| number.get()).transpose()?,
            is_negative_hits: written.is_negative_hits,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn per(count: u32, unit: i32) -> Override {
        Override { requests_per_unit: count, unit }
    }

    #[test]
    fn addends() {
        let descriptor = |hits_addend, is_negative_hits| Descriptor {
            hits_addend,
            is_negative_hits,
            ..Descriptor::default()
        };
        for (own, negative, of_question, cost) in [
            (None, false, 0, (1, How::Charge)),
            (None, false, 7, (7, How::Charge)),
            (Some(0), false, 7, (0, How::Ask)),
            (Some(3), false, 7, (3, How::Charge)),
            (Some(u64::MAX), false, 0, (u32::MAX, How::Charge)),
            (None, false, u32::MAX, (u32::MAX, How::Charge)),
            (Some(3), true, 0, (3, How::GiveBack)),
            (None, true, 0, (1, How::GiveBack)),
            (Some(0), true, 0, (0, How::Ask)),
        ] {
            assert_eq!(descriptor(own, negative).cost(of_question), cost, "{own:?} {negative} {of_question}");
        }
    }

    #[test]
    fn quotas_that_are_brought_along() {
        let rate = |text: &str| Brought::Rate(text.parse().unwrap());
        for (brought, most, quota) in [
            (per(5, 1), None, rate("5/s")),
            (per(5, 2), None, rate("5/min")),
            (per(5, 7), None, rate("5/week")),
            (per(5, 5), None, rate("5/30day")),
            (per(5, 6), None, rate("5/365day")),
            (per(0, 1), None, Brought::Nothing),
            (per(5, 0), None, Brought::Senseless),
            (per(5, 8), None, Brought::Senseless),
            (per(5, -1), None, Brought::Senseless),
            (per(u32::MAX, 1), None, rate("10000000/s")),
            (per(5, 1), Some("10/s"), rate("5/s")),
            (per(11, 1), Some("10/s"), rate("10/s")),
            (per(601, 2), Some("10/s"), rate("10/s")),
            (per(600, 2), Some("10/s"), rate("600/min")),
        ] {
            let most = most.map(|most| most.parse().unwrap());
            assert_eq!(brought.quota(most), quota, "{brought:?} {most:?}");
        }
    }

    /// What is declared here is what Envoy declares.
    #[test]
    fn the_messages_are_envoys() {
        use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
        use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor as parts;
        use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
        use envoy_types::pb::google::protobuf::UInt64Value;
        let theirs = RateLimitRequest {
            domain: "edge".to_owned(),
            descriptors: vec![RateLimitDescriptor {
                entries: vec![parts::Entry { key: "user".to_owned(), value: "ann".to_owned() }],
                limit: Some(parts::RateLimitOverride { requests_per_unit: 7, unit: 3 }),
                hits_addend: Some(UInt64Value { value: 9 }),
                is_negative_hits: true,
            }],
            hits_addend: 5,
        };
        let ours = Question::decode(theirs.encode_to_vec().as_slice()).unwrap();
        let json = r#"{"domain": "edge", "hitsAddend": 5, "descriptors": [{"entries": [{"key": "user", "value": "ann"}],
            "limit": {"requestsPerUnit": 7, "unit": "HOUR"}, "hits_addend": "9", "isNegativeHits": true}]}"#;
        assert_eq!(ours, Question::from_json(json.as_bytes()).unwrap());
        assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec());
        assert_eq!(&*ours.descriptors[0].entries[0].value, b"ann");
        assert_eq!(UNITS[3].0, "HOUR");
    }

    #[test]
    fn json_that_is_no_question() {
        for text in [
            "",
            "[]",
            "{\"domain\": 1}",
            "{\"domian\": \"x\"}",
            "{\"hitsAddend\": -1}",
            "{\"hitsAddend\": 4294967296}",
            "{\"descriptors\": [{\"limit\": {\"unit\": \"FORTNIGHT\"}}]}",
            "{\"descriptors\": {}}",
        ] {
            assert!(Question::from_json(text.as_bytes()).is_err(), "{text}");
        }
    }
}
