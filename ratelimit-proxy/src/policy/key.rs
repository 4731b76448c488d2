//! [`KeyReader`]: what a limit counts by. Values of a request become the canonical bytes of a key here, and
//! nowhere else.

use ratelimit_core::KeyBuf;
use smallvec::SmallVec;

use super::source::{Ambiguous, Reader, Value};
use crate::config::Missing;
use crate::config::words::{KeyPart, PathPattern, Source};
use crate::facts::Facts;

/// The compiled key of a limit.
#[derive(Clone, Debug)]
pub(super) struct KeyReader {
    parts: Box<[Part]>,
    missing: Missing,
    ipv6_prefix: u8,
}

#[derive(Clone, Debug)]
pub(super) enum Part {
    One(Reader),
    First(Box<[Reader]>),
}

/// The value of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found<'r> {
    /// `None` if the request has none.
    pub(super) value: Option<Value<'r>>,
    /// Which of several sources it is from.
    pub(super) source: Option<usize>,
}

pub(super) type Values<'r> = SmallVec<[Found<'r>; 4]>;

impl KeyReader {
    pub(super) fn new(
        key: &[KeyPart],
        missing: Missing,
        pattern: Option<&PathPattern>,
        ipv6_prefix: u8,
    ) -> Self {
        let reader = |source: &Source| Reader::new(source, pattern, ipv6_prefix);
        let part = |part: &KeyPart| match part {
            KeyPart::One(source) => Part::One(reader(source)),
            KeyPart::First(sources) => Part::First(sources.iter().map(reader).collect()),
        };
        Self { parts: key.iter().map(part).collect(), missing, ipv6_prefix }
    }

    /// The values of a request.
    ///
    /// # Errors
    /// The number of the first part that can be read in several ways.
    #[inline]
    pub(super) fn read<'r>(&self, facts: &Facts<'r>) -> Result<Values<'r>, usize> {
        let parts = self.parts.iter().enumerate();
        parts.map(|(number, part)| part.read(facts).map_err(|Ambiguous| number)).collect()
    }

    /// The first part without value, unless such requests share a bucket.
    #[inline]
    pub(super) fn lacks(&self, values: &[Found<'_>]) -> Option<(usize, Missing)> {
        match self.missing {
            Missing::Share => None,
            other => values.iter().position(|found| found.value.is_none()).map(|part| (part, other)),
        }
    }

    pub(super) fn readers(&self) -> impl Iterator<Item = &Reader> {
        self.parts.iter().flat_map(Part::readers)
    }

    /// An IPv6 client is its network of that many bits.
    pub(super) const fn ipv6_prefix(&self) -> u8 {
        self.ipv6_prefix
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// For each part, whether it can be the client's address.
    pub(super) fn addresses(&self) -> impl Iterator<Item = bool> {
        self.parts.iter().map(|part| part.readers().iter().any(|reader| matches!(reader, Reader::Client(_))))
    }
}

impl Part {
    pub(super) fn readers(&self) -> &[Reader] {
        match self {
            Self::One(reader) => std::slice::from_ref(reader),
            Self::First(readers) => readers,
        }
    }

    #[inline]
    fn read<'r>(&self, facts: &Facts<'r>) -> Result<Found<'r>, Ambiguous> {
        match self {
            Self::One(reader) => Ok(Found { value: reader.read(facts)?, source: None }),
            Self::First(readers) => {
                for (number, reader) in readers.iter().enumerate() {
                    if let Some(value) = reader.read(facts)? {
                        return Ok(Found { value: Some(value), source: Some(number) });
                    }
                }
                Ok(Found { value: None, source: None })
            }
        }
    }
}

/// Appends the canonical bytes of a key. Each part is a value with its length, or "missing"; before the value
/// of one of several sources comes the source, so that a header can't take part in the bucket of an address.
#[inline]
pub(super) fn write(values: &[Found<'_>], keys: &mut KeyBuf) {
    for found in values {
        if let Some(number) = found.source {
            source(number, keys);
        }
        match &found.value {
            Some(Value::Text(text)) => keys.push_bytes(text),
            Some(Value::Address(address)) => keys.push_ip(*address),
            None => keys.push_missing(),
        }
    }
}

/// 255 in front of a number means 255 more, so that lists of any length have different marks.
fn source(number: usize, keys: &mut KeyBuf) {
    for _ in 0..number / 255 {
        keys.push_source(u8::MAX);
    }
    keys.push_source(u8::try_from(number % 255).unwrap_or_default());
}
