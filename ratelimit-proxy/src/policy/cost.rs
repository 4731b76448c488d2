//! [`CostReader`]: what a request costs before it is known how it ends.

use super::source::{Ambiguous, Reader, Value, is_named, parameters};
use crate::config::Cost;
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

#[cfg(test)]
mod tests {
    use super::*;

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
