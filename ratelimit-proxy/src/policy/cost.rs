//! What a request costs: [`CostReader`] before it is known how it ends, [`Late::charge`] after.

use super::source::{Ambiguous, Reader, Value, is_named, parameters};
use http::HeaderMap;

use crate::config::{Actual, Cost, Late, Outcomes};
use crate::facts::Facts;

/// A compiled [`Cost`].
#[derive(Clone, Debug)]
pub(super) enum CostReader {
    Fixed(u32),
    Value { reader: Reader, default: u32 },
}

/// The request names a cost that is no number up to 2³²−1 in decimal, or several. Guessing which one was meant
/// would let a client name one price and use another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadCost;

impl CostReader {
    pub(super) fn new(cost: &Cost) -> Self {
        match cost {
            Cost::Fixed(units) => Self::Fixed(*units),
            Cost::Value { source, default } => {
                Self::Value { reader: Reader::new(source, None, 128), default: *default }
            }
        }
    }

    pub(super) fn read(&self, facts: &Facts<'_>) -> Result<u32, BadCost> {
        let (reader, default) = match self {
            Self::Fixed(units) => return Ok(*units),
            Self::Value { reader, default } => (reader, *default),
        };
        // An upstream may add several up, so the same one twice is not one.
        let several = match reader {
            Reader::Query(name) => {
                parameters(facts.query).filter(|(raw, _)| is_named(raw, name)).nth(1).is_some()
            }
            Reader::Header(name) => facts.headers.get_all(name).iter().nth(1).is_some(),
            _ => false,
        };
        if several {
            return Err(BadCost);
        }
        match reader.read(facts) {
            Ok(None) => Ok(default),
            Ok(Some(Value::Text(text))) => number(&text),
            Ok(Some(Value::Address(_))) | Err(Ambiguous) => Err(BadCost),
        }
    }

    pub(super) const fn reader(&self) -> Option<&Reader> {
        match self {
            Self::Fixed(_) => None,
            Self::Value { reader, .. } => Some(reader),
        }
    }
}

fn number(text: &[u8]) -> Result<u32, BadCost> {
    let text = text.trim_ascii();
    // `parse` takes a sign.
    if !text.iter().all(u8::is_ascii_digit) {
        return Err(BadCost);
    }
    std::str::from_utf8(text).ok().and_then(|digits| digits.parse().ok()).ok_or(BadCost)
}

/// How a request ended, as far as anybody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// What the client was answered with; `None` if it went away before there was an answer.
    pub status: Option<u16>,
    /// The status of gRPC, from the head or the trailers.
    pub grpc: Option<u16>,
    /// Whether the response came to its end.
    pub complete: bool,
}

impl Late {
    /// What a request that ended so is charged, of which `held` is already. Whoever leaves before it is known
    /// how the request ends is charged: leaving must not be a way to guess for free.
    #[must_use]
    pub fn charge(&self, held: u32, ending: &Ending, actual: Option<u32>) -> u32 {
        if self.count.as_ref().is_some_and(|outcomes| !outcomes.may_hold(ending)) {
            return 0;
        }
        match &self.actual {
            None => held,
            Some(wanted) => actual.unwrap_or(if wanted.refund_unknown { 0 } else { held }),
        }
    }
}

impl Outcomes {
    /// Whether an end is one of these, or could be for all anybody knows.
    fn may_hold(&self, ending: &Ending) -> bool {
        let Some(status) = ending.status else { return true };
        let by_grpc = match ending.grpc {
            Some(grpc) => self.grpc.contains(&grpc),
            None => !self.grpc.is_empty() && !ending.complete,
        };
        by_grpc || self.status.iter().any(|range| range.contains(&status))
    }
}

impl Actual {
    /// The cost that a response says: a whole number, cut to what fits; less than nothing is nothing. `None` if
    /// it says none, or several.
    #[must_use]
    pub fn read(&self, headers: &HeaderMap) -> Option<u32> {
        let mut lines = headers.get_all(&self.header).iter();
        let (line, None) = (lines.next()?, lines.next()) else { return None };
        let text = line.as_bytes().trim_ascii();
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        if digits.len() < text.len() {
            return Some(0);
        }
        // Only too large a number of digits is not read.
        Some(std::str::from_utf8(digits).ok()?.parse().unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn what_the_end_comes_to() {
        let outcomes = |status: &[u16], grpc: &[u16]| {
            Some(Outcomes { status: status.iter().map(|s| *s..=*s).collect(), grpc: grpc.to_vec() })
        };
        let header = HeaderName::from_static("x-used");
        let actual = |refund_unknown| Some(Actual { header: header.clone(), refund_unknown });
        let end = |status, grpc, complete| Ending { status, grpc, complete };
        let (failed, fine) = (end(Some(401), None, true), end(Some(200), None, true));
        for (count, cost, ending, said, charged) in [
            (outcomes(&[401], &[]), None, failed, None, 7),
            (outcomes(&[401], &[]), None, fine, None, 0),
            (outcomes(&[401], &[]), None, Ending::default(), None, 7),
            (outcomes(&[], &[16]), None, end(Some(200), Some(16), true), None, 7),
            (outcomes(&[], &[16]), None, end(Some(200), Some(0), true), None, 0),
            (outcomes(&[], &[16]), None, end(Some(200), None, false), None, 7),
            (outcomes(&[], &[16]), None, fine, None, 0),
            (outcomes(&[401], &[16]), None, end(Some(401), Some(0), true), None, 7),
            (None, actual(false), fine, Some(3), 3),
            (None, actual(false), fine, Some(300), 300),
            (None, actual(false), fine, None, 7),
            (None, actual(true), fine, None, 0),
            (None, actual(true), Ending::default(), None, 0),
            (outcomes(&[401], &[]), actual(false), failed, Some(3), 3),
            (outcomes(&[401], &[]), actual(false), fine, Some(3), 0),
        ] {
            let late = Late { count, actual: cost };
            assert_eq!(late.charge(7, &ending, said), charged, "{late:?} {ending:?}");
        }
        for (value, said) in [
            ("17", Some(17)),
            (" 0 ", Some(0)),
            ("-5", Some(0)),
            ("99999999999999999999999999999999999999999999", Some(u32::MAX)),
            ("1.5", None),
            ("", None),
            ("-", None),
            ("5, 5", None),
            ("many", None),
        ] {
            let headers = HeaderMap::from_iter([(header.clone(), HeaderValue::from_static(value))]);
            assert_eq!(actual(false).unwrap().read(&headers), said, "{value}");
        }
        let twice = [
            (header.clone(), HeaderValue::from_static("1")),
            (header.clone(), HeaderValue::from_static("1")),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in twice {
            headers.append(name, value);
        }
        assert_eq!(actual(false).unwrap().read(&headers), None);
    }

    #[test]
    fn numbers() {
        for (text, units) in [
            ("0", Some(0)),
            ("1", Some(1)),
            (" 17 ", Some(17)),
            ("007", Some(7)),
            ("4294967295", Some(u32::MAX)),
            ("4294967296", None),
            ("99999999999999999999999999", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("1e3", None),
            ("0x10", None),
            ("5, 5", None),
            ("", None),
            ("\u{661}", None),
        ] {
            assert_eq!(number(text.as_bytes()).ok(), units, "{text}");
        }
    }
}
