//! [`WrittenKey`]: a key as people write it in a path, and as a limit that counts by it understands it.
//!
//! Parts are separated by commas and percent-encoded, so that any bytes can be written: `gold-key`, `a%2Cb`,
//! `gold-key,invoices`. What is written unencoded means something: `@missing` is a part that the request did not
//! have, and `header.x-api-key=gold` says which of several sources a part is from. JavaScript's
//! `encodeURIComponent` encodes all three.
//!
//! The key of a limit on Envoy's questions that names no domain begins with one: `domain=edge,ann`. Without it, what is
//! meant is the key in all domains, which has overrides and no counter.
//!
//! One key has one normal text, whatever it was written like, so that it can be stored and compared.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::net::IpAddr;

use ipnet::IpNet;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use ratelimit_core::{Key, KeyBuf, ReadPart};

use super::explain::ExplainedPart;
use super::key::{self, Found, Part, Values};
use super::rule::Rule;
use super::source::{Reader, Value, masked};
use crate::config::words::KeyPart;

/// What a part is written as that the request did not have.
const MISSING: &str = "@missing";
/// What stands in front of a domain.
const DOMAIN: &str = "domain=";
/// What stands for itself.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
/// Most bytes of a written key.
const MOST: usize = 8 * 1024;

/// A part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenPart {
    /// Which of several sources it is from, if that is said: `header.x-api-key`.
    pub source: Option<String>,
    /// Its value; `None` if the request had none.
    pub value: Option<Vec<u8>>,
}

/// A key of a limit.
#[derive(Clone, Debug)]
pub struct WrittenKey {
    values: Values<'static>,
    bytes: KeyBuf,
    text: String,
    /// Where in `bytes` and in `text` begins what overrides go by.
    overridden: (usize, usize),
    /// Whether the domain is missing that a counter would be in.
    of_all_domains: bool,
}

/// Why a text is no key of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyFault {
    /// It has another number of parts than the limit's key.
    Parts {
        /// What was written.
        given: usize,
        /// What the limit counts by, in words.
        wanted: String,
        /// Its number of parts.
        parts: usize,
    },
    /// A `%` that begins no escape.
    Escape,
    /// Only an address can stand there.
    Address(String),
    /// A part could be from several sources.
    Ambiguous(Vec<String>),
    /// No request could have such a value there.
    Impossible(String),
    /// It is longer than any key.
    Long,
    /// Its counters are those of a domain, and none is named.
    Domain,
}

impl WrittenPart {
    /// A part of a text.
    fn read(text: &str) -> Result<Self, KeyFault> {
        let (source, value) = match text.split_once('=') {
            Some((source, value)) if is_source(source) => (Some(source.to_owned()), value),
            _ => (None, text),
        };
        Ok(Self { source, value: if value == MISSING { None } else { Some(decoded(value)?) } })
    }
}

/// Whether it is a word for a source; whatever else stands before a `=` belongs to the value.
fn is_source(text: &str) -> bool {
    text.parse::<crate::config::words::Source>().is_ok()
}

fn decoded(text: &str) -> Result<Vec<u8>, KeyFault> {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        let digits = rest.get(at + 1..at + 3).ok_or(KeyFault::Escape)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(KeyFault::Escape);
        }
        rest = rest.get(at + 3..).unwrap_or_default();
    }
    Ok(percent_decode_str(text).collect())
}

impl WrittenKey {
    /// The key as stores know it.
    #[must_use]
    pub fn key(&self) -> Key<'_> {
        self.bytes.key()
    }

    /// The normal text of the key.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What overrides of the key go by: those of a limit that names no domain are for all domains.
    pub(crate) fn overridden(&self) -> Key<'_> {
        self.bytes.slice(self.overridden.0..self.bytes.len())
    }

    /// The normal text of that.
    pub(crate) fn overridden_text(&self) -> &str {
        self.text.get(self.overridden.1..).unwrap_or_default()
    }

    /// Whether it is the key in all domains, so that there is no one counter.
    pub(crate) fn is_of_all_domains(&self) -> bool {
        self.of_all_domains
    }

    pub(super) fn values(&self) -> &[Found<'static>] {
        &self.values
    }

    pub(crate) fn into_overridden(self) -> KeyBuf {
        let mut bytes = KeyBuf::new();
        ratelimit_core::AsKey::encode(&self.overridden(), &mut bytes);
        bytes
    }
}

impl Rule {
    /// The key of this limit that a text means; see the module.
    ///
    /// # Errors
    /// When it means none, or several.
    pub fn key_from_text(&self, text: &str) -> Result<WrittenKey, KeyFault> {
        if text.len() > MOST {
            return Err(KeyFault::Long);
        }
        let (domain, text) = self.domain_in(text);
        let domain = domain.map(decoded).transpose()?;
        let none = self.parts.is_empty() && text.is_empty();
        let parts = text.split(',').filter(|_| !none).map(WrittenPart::read);
        self.written(&parts.collect::<Result<Vec<_>, _>>()?, domain.as_deref())
    }

    /// Whether its keys begin with the domain of a question, since it is about all domains.
    fn is_of_any_domain(&self) -> bool {
        self.matcher.is_asked() && self.matcher.domain().is_none()
    }

    /// The domain that stands in front of a key, and what stands behind it.
    fn domain_in<'t>(&self, text: &'t str) -> (Option<&'t str>, &'t str) {
        let behind = text.strip_prefix(DOMAIN).filter(|_| self.is_of_any_domain());
        match behind.map(|behind| (behind, behind.split_once(','))) {
            // A value may begin like that; then there is no part too many.
            Some((_, Some((domain, rest)))) if text.matches(',').count() == self.parts.len() => {
                (Some(domain), rest)
            }
            Some((domain, None)) if self.parts.is_empty() => (Some(domain), ""),
            _ => (None, text),
        }
    }

    /// The key of this limit that some parts mean.
    ///
    /// # Errors
    /// When they mean none, or several.
    pub fn key_from_parts(&self, parts: &[WrittenPart]) -> Result<WrittenKey, KeyFault> {
        self.written(parts, None)
    }

    fn written(&self, parts: &[WrittenPart], domain: Option<&[u8]>) -> Result<WrittenKey, KeyFault> {
        if parts.len() != self.parts.len() {
            let wanted = self.key().to_string();
            return Err(KeyFault::Parts { given: parts.len(), wanted, parts: self.parts.len() });
        }
        let mut values = Values::new();
        for ((written, words), part) in parts.iter().zip(&self.parts).zip(self.key.parts()) {
            values.push(found(written, words, part)?);
        }
        let mut bytes = KeyBuf::new();
        // As it is counted, see `weigh`.
        if let Some(domain) = self.matcher.domain().map(str::as_bytes).or(domain) {
            bytes.push_bytes(domain);
        }
        let front = if self.is_of_any_domain() { bytes.len() } else { 0 };
        key::write(&values, &mut bytes);
        let of_all_domains = self.is_of_any_domain() && domain.is_none();
        let (text, begins) = self.text_in(domain, &values);
        Ok(WrittenKey { values, bytes, text, overridden: (front, begins), of_all_domains })
    }

    /// The normal text of a key in a domain, and where in it the key begins.
    fn text_in(&self, domain: Option<&[u8]>, values: &[Found<'_>]) -> (String, usize) {
        let own = self.text(values);
        let Some(domain) = domain else { return (own, 0) };
        let mut text = String::from(DOMAIN);
        text.extend(percent_encode(domain, ENCODED));
        if !self.parts.is_empty() {
            text.push(',');
        }
        let begins = text.len();
        text.push_str(&own);
        (text, begins)
    }

    /// The key of this limit that those bytes are; `None` if they are none.
    pub(crate) fn key_from_bytes(&self, bytes: &KeyBuf) -> Option<WrittenKey> {
        let mut values = Values::new();
        let mut source = None;
        let mut parts = bytes.parts()?.into_iter();
        // The first of Envoy's is the domain.
        let domain = if self.matcher.is_asked() { Some(parts.next()?) } else { None };
        for part in parts {
            let value = match part {
                ReadPart::Source(number) => {
                    source = Some(source.unwrap_or(0) + usize::from(number));
                    continue;
                }
                ReadPart::Missing => None,
                ReadPart::Bytes(text) => Some(Value::Text(Cow::Owned(text.to_vec()))),
                ReadPart::Address(address) => Some(Value::Address(address)),
                _ => return None,
            };
            values.push(Found { value, source: source.take() });
        }
        if values.len() != self.parts.len() {
            return None;
        }
        let domain = match domain {
            Some(ReadPart::Bytes(domain)) => Some(domain),
            _ => None,
        };
        // From the values, so that what overrides go by is where it is.
        let domain = domain.filter(|_| self.is_of_any_domain());
        let mut front = KeyBuf::new();
        if let Some(domain) = domain {
            front.push_bytes(domain);
        }
        let (text, begins) = self.text_in(domain, &values);
        let overridden = (front.len(), begins);
        Some(WrittenKey { values, bytes: bytes.clone(), text, overridden, of_all_domains: false })
    }

    /// The normal text of a key.
    pub(super) fn text(&self, values: &[Found<'_>]) -> String {
        let mut text = String::new();
        for (number, (found, words)) in values.iter().zip(&self.parts).enumerate() {
            text.push_str(if number == 0 { "" } else { "," });
            if let (KeyPart::First(sources), Some(source)) = (words, found.source)
                && let Some(source) = sources.get(source)
            {
                let _ = write!(text, "{source}=");
            }
            match &found.value {
                None => text.push_str(MISSING),
                Some(Value::Address(address)) => text.push_str(&address.to_string()),
                Some(Value::Text(bytes)) => text.extend(percent_encode(bytes, ENCODED)),
            }
        }
        text
    }

    /// The parts of a key, for people and as data.
    #[must_use]
    pub fn parts_of(&self, key: &WrittenKey) -> Vec<ExplainedPart> {
        self.explained_parts(key.values())
    }
}

fn found(written: &WrittenPart, words: &KeyPart, part: &Part) -> Result<Found<'static>, KeyFault> {
    let readers = part.readers();
    let Some(bytes) = &written.value else { return Ok(Found { value: None, source: None }) };
    let KeyPart::First(sources) = words else {
        let reader = readers.first();
        return Ok(Found { value: reader.map(|reader| value(reader, bytes)).transpose()?, source: None });
    };
    let names = || sources.iter().map(ToString::to_string);
    let number = match &written.source {
        Some(source) => names().position(|name| name == *source),
        None => {
            let address = readers.iter().position(|reader| matches!(reader, Reader::Client(_)));
            let address = address
                .filter(|number| readers.get(*number).is_some_and(|reader| value(reader, bytes).is_ok()));
            let mut texts = (0..readers.len())
                .filter(|number| !matches!(readers.get(*number), Some(Reader::Client(_)) | None));
            address.or_else(|| texts.next().filter(|_| texts.next().is_none()))
        }
    };
    let number = number.ok_or_else(|| KeyFault::Ambiguous(names().collect()))?;
    let value = readers.get(number).map(|reader| value(reader, bytes)).transpose()?;
    Ok(Found { value, source: Some(number) })
}

/// The value that a request would have there.
fn value(reader: &Reader, bytes: &[u8]) -> Result<Value<'static>, KeyFault> {
    let text = match reader {
        Reader::Client(prefix) => return address(bytes, *prefix).map(Value::Address),
        Reader::Method => bytes.to_ascii_uppercase(),
        Reader::Host => bytes.to_ascii_lowercase(),
        // What a header can't hold, no request has.
        Reader::Header(name) if http::HeaderValue::from_bytes(bytes).is_err() => {
            return Err(KeyFault::Impossible(format!("header.{name}")));
        }
        _ => bytes.to_vec(),
    };
    Ok(Value::Text(Cow::Owned(text)))
}

/// An address, or the network of one as it is shown.
fn address(bytes: &[u8], prefix: u8) -> Result<IpAddr, KeyFault> {
    let text = std::str::from_utf8(bytes).ok();
    let network = |text: &str| text.parse::<IpNet>().ok().filter(|net| net.prefix_len() == prefix);
    let address = text.and_then(|text| {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        bare.parse().ok().or_else(|| network(text).map(|net| net.addr()))
    });
    let address = address.ok_or_else(|| KeyFault::Address(bytes.escape_ascii().to_string()))?;
    Ok(masked(address, prefix))
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parts { given, parts: 0, .. } => {
                write!(f, "{given} given, but the limit has one bucket for all: leave the key empty")
            }
            Self::Parts { given, wanted, parts } => {
                let s = if *parts == 1 { "" } else { "s" };
                write!(f, "{given} given, but the key has {parts} part{s}, {wanted}: separate them by commas")
            }
            Self::Escape => f.write_str("a % begins no escape: write %25"),
            Self::Address(text) => write!(f, "{text:?} is not an address, which the limit counts by"),
            Self::Ambiguous(sources) => {
                write!(f, "a part can be from several sources: write {}", sources.join("=…, or "))?;
                f.write_str("=…")
            }
            Self::Impossible(source) => write!(f, "no request can have such a value in {source}"),
            Self::Domain => {
                f.write_str("its counters are those of a domain: write domain=NAME, in front of it")
            }
            Self::Long => write!(f, "it is longer than {MOST} bytes"),
        }
    }
}

impl std::error::Error for KeyFault {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LimitConfig;
    use crate::config::words::Source;
    use proptest::prelude::*;
    use ratelimit_core::{Limit, Rate};
    use std::slice::from_ref;

    fn rule(key: &[KeyPart]) -> Rule {
        let limit = Limit::new("l", Rate::per_second(1));
        Rule::new(&LimitConfig { key: key.to_vec(), ..LimitConfig::new(limit) }, 64)
    }

    fn one(word: &str) -> KeyPart {
        KeyPart::One(word.parse().unwrap())
    }

    fn first(words: &[&str]) -> KeyPart {
        KeyPart::First(words.iter().map(|word| word.parse::<Source>().unwrap()).collect())
    }

    #[test]
    fn one_key_has_one_text() {
        let (address, header) = (one("client.ip"), one("header.k"));
        let either = first(&["header.k", "client.ip"]);
        let three = first(&["header.k", "query.k", "client.ip"]);
        for (key, written, text) in [
            (from_ref(&address), "192.0.2.1", "192.0.2.1"),
            (from_ref(&address), "%3A%3affff:192.0.2.1", "192.0.2.1"),
            (from_ref(&address), "2001:DB8::77", "2001:db8::"),
            (from_ref(&address), "2001:db8::%2F64", "2001:db8::"),
            (from_ref(&address), "[2001:db8::1]", "2001:db8::"),
            (from_ref(&header), "gold", "gold"),
            (from_ref(&header), "", ""),
            (from_ref(&header), "a=b==", "a%3Db%3D%3D"),
            (from_ref(&header), "a%2Cb%2fc%ff", "a%2Cb%2Fc%FF"),
            (from_ref(&header), "%40missing", "%40missing"),
            (from_ref(&header), "@missing", "@missing"),
            (&[header.clone(), one("method")], "a,get", "a,GET"),
            (&[header.clone(), one("host")], ",EXAMPLE.com", ",example.com"),
            (from_ref(&either), "1.2.3.4", "client.ip=1.2.3.4"),
            (from_ref(&either), "gold", "header.k=gold"),
            (from_ref(&either), "header.k=1.2.3.4", "header.k=1.2.3.4"),
            (from_ref(&either), "x.y=1", "header.k=x.y%3D1"),
            (from_ref(&either), "@missing", "@missing"),
            (from_ref(&three), "query.k=a,", ""),
            (&[], "", ""),
        ] {
            let rule = rule(key);
            let found = rule.key_from_text(written);
            if written.ends_with(',') {
                assert!(matches!(found, Err(KeyFault::Parts { given: 2, parts: 1, .. })), "{written}");
                continue;
            }
            let found = found.unwrap_or_else(|fault| panic!("{written}: {fault}"));
            assert_eq!(found.text(), text, "{written}");
            assert_eq!(rule.key_from_text(text).unwrap().key(), found.key(), "{written}");
        }
    }

    #[test]
    fn what_means_none_or_several_is_refused() {
        let three = first(&["header.k", "query.k", "client.ip"]);
        for (key, written, words) in [
            (&[one("client.ip")][..], "gold", "not an address"),
            (&[one("client.ip")], "@missing,", "2 given, but the key has 1 part"),
            (&[one("client.ip")], "2001:db8::%2F63", "not an address"),
            (&[one("header.k")], "a%2", "a % begins no escape"),
            (&[one("header.k")], "%zz", "a % begins no escape"),
            (&[one("header.k")], "a%0Ab", "no request can have such a value in header.k"),
            (from_ref(&three), "gold", "write header.k=…, or query.k=…, or client.ip=…"),
            (from_ref(&three), "cookie.k=gold", "can be from several sources"),
            (from_ref(&three), "client.ip=gold", "not an address"),
            (&[], "a", "leave the key empty"),
            (&[one("header.k"), one("host")], "a", "1 given, but the key has 2 parts, header.k, host"),
        ] {
            let fault = rule(key).key_from_text(written).unwrap_err().to_string();
            assert!(fault.contains(words), "{written}: {fault}");
        }
        assert_eq!(rule(&[one("header.k")]).key_from_text(&"x".repeat(9000)).unwrap_err(), KeyFault::Long);
    }

    proptest! {
        /// Whatever a key is made of, its text leads back to it.
        #[test]
        fn a_text_leads_back_to_its_key(
            parts in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..20)), 2),
            source in 0..3_usize,
        ) {
            let rule = rule(&[one("query.a"), first(&["query.b", "query.c", "cookie.d"])]);
            let names = ["query.b", "query.c", "cookie.d"];
            let parts = [
                WrittenPart { source: None, value: parts[0].clone() },
                WrittenPart { source: Some(names[source].to_owned()), value: parts[1].clone() },
            ];
            let key = rule.key_from_parts(&parts).unwrap();
            let again = rule.key_from_text(key.text()).unwrap();
            prop_assert_eq!(again.key(), key.key());
            prop_assert_eq!(again.text(), key.text());
            let read = rule.key_from_bytes(&key.bytes).unwrap();
            prop_assert_eq!(read.text(), key.text());
        }
    }
}
