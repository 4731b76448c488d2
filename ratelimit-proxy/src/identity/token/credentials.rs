//! What an `Authorization` field says: a bearer's token (RFC 6750), the user of Basic (RFC 7617) and of Digest
//! (RFC 7616). Pure. The users are claims that nobody has checked yet: good for counting log-ins, not for trust.
//!
//! Several `Authorization` fields are none: an upstream may look at another one than we do. Base64 is read as
//! laxly as upstreams read it, so that another spelling of a name is not another key.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{AUTHORIZATION, HeaderMap};

const LAX: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The credentials of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials<'r> {
    /// There are none.
    None,
    /// There are several, so none can be believed.
    Several,
    /// A scheme, and what follows it.
    One(&'r [u8], &'r [u8]),
}

impl<'r> Credentials<'r> {
    /// Those of a head.
    #[must_use]
    pub fn of(headers: &'r HeaderMap) -> Self {
        let mut lines = headers.get_all(AUTHORIZATION).iter();
        let Some(line) = lines.next() else { return Self::None };
        if lines.next().is_some() {
            return Self::Several;
        }
        let line = line.as_bytes().trim_ascii();
        let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(line.len());
        let (scheme, rest) = line.split_at_checked(end).unwrap_or((line, b""));
        Self::One(scheme, rest.trim_ascii())
    }

    /// What follows that scheme; schemes have no case.
    #[must_use]
    pub fn with(self, scheme: &str) -> Option<&'r [u8]> {
        match self {
            Self::One(found, rest) if found.eq_ignore_ascii_case(scheme.as_bytes()) => Some(rest),
            _ => None,
        }
    }
}

/// The user that a Basic field names.
#[must_use]
pub fn basic_user(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut pair = LAX.decode(Credentials::of(headers).with("basic")?).ok()?;
    // A user has no colon, a password may.
    let colon = pair.iter().position(|byte| *byte == b':')?;
    pair.truncate(colon);
    Some(pair)
}

/// The user that a Digest field names: `username`, or `username*` where it is not ASCII, never both.
#[must_use]
pub fn digest_user(headers: &HeaderMap) -> Option<Cow<'_, [u8]>> {
    let mut rest = Credentials::of(headers).with("digest")?;
    let mut user = None;
    while let Some((name, value, after)) = parameter(rest)? {
        rest = after;
        let found = if name.eq_ignore_ascii_case(b"username") {
            value
        } else if name.eq_ignore_ascii_case(b"username*") {
            Cow::Owned(extended(&value)?)
        } else {
            continue;
        };
        if user.replace(found).is_some() {
            return None;
        }
    }
    user
}

type Parameter<'r> = (&'r [u8], Cow<'r, [u8]>, &'r [u8]);

/// The next parameter of a list and what follows it. `None` is no list, `Some(None)` its end.
fn parameter(text: &[u8]) -> Option<Option<Parameter<'_>>> {
    let skipped = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b',')).count();
    let text = text.get(skipped..)?;
    if text.is_empty() {
        return Some(None);
    }
    let equals = text.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (text.get(..equals)?.trim_ascii_end(), text.get(equals + 1..)?.trim_ascii_start());
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return None;
    }
    let (value, rest) = match value.strip_prefix(b"\"") {
        Some(quoted) => unquoted(quoted)?,
        None => {
            let end = value.iter().position(|byte| !is_token(*byte)).unwrap_or(value.len());
            let (value, rest) = value.split_at_checked(end)?;
            (Cow::Borrowed(value), rest)
        }
    };
    let rest = rest.trim_ascii_start();
    (rest.is_empty() || rest.starts_with(b",")).then_some(Some((name, value, rest)))
}

/// A quoted string up to its end, and what follows it.
fn unquoted(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let plain = text.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    let (before, mut rest) = text.split_at_checked(plain)?;
    if let Some(after) = rest.strip_prefix(b"\"") {
        return Some((Cow::Borrowed(before), after));
    }
    let mut value = before.to_vec();
    loop {
        match rest.split_first()? {
            (b'"', after) => return Some((Cow::Owned(value), after)),
            (b'\\', after) => {
                let (escaped, after) = after.split_first()?;
                value.push(*escaped);
                rest = after;
            }
            (byte, after) => {
                value.push(*byte);
                rest = after;
            }
        }
    }
}

/// `UTF-8''J%C3%BCrgen` (RFC 8187); other character sets are not to be used.
fn extended(value: &[u8]) -> Option<Vec<u8>> {
    let mut parts = value.splitn(3, |byte| *byte == b'\'');
    let (charset, _language, coded) = (parts.next()?, parts.next()?, parts.next()?);
    if !charset.eq_ignore_ascii_case(b"utf-8") {
        return None;
    }
    let bytes: Vec<u8> = percent_encoding::percent_decode(coded).collect();
    std::str::from_utf8(&bytes).is_ok().then_some(bytes)
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(lines: &[&str]) -> HeaderMap {
        let lines = lines.iter().map(|line| (AUTHORIZATION, HeaderValue::from_str(line).unwrap()));
        lines.fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        })
    }

    #[test]
    fn users_of_basic() {
        for (line, user) in [
            ("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", Some("Aladdin")),
            ("bAsIc  QWxhZGRpbjpvcGVuIHNlc2FtZQ", Some("Aladdin")),
            ("Basic YTpiOmM=", Some("a")),
            ("Basic OmI=", Some("")),
            // Other bits at the end are the same bytes to lax decoders.
            ("Basic YTpiOmN=", Some("a")),
            ("Basic YWI=", None),
            ("Basic", None),
            ("Basic !!!!", None),
            ("Bearer YTpi", None),
            ("", None),
        ] {
            let found = basic_user(&headers(&[line]));
            assert_eq!(found.as_deref(), user.map(str::as_bytes), "{line}");
        }
        assert_eq!(basic_user(&headers(&["Basic YTpi", "Basic YTpi"])), None, "two fields are none");
        assert_eq!(basic_user(&HeaderMap::new()), None);
    }

    #[test]
    fn users_of_digest() {
        for (line, user) in [
            (r#"Digest username="Mufasa", realm="http-auth@example.org", uri="/dir""#, Some("Mufasa")),
            (r#"DIGEST realm="a, username=\"x\"",username = "Mufasa""#, Some("Mufasa")),
            (r#"Digest username="a\"b\\c""#, Some(r#"a"b\c"#)),
            ("Digest username=plain, nc=00000001", Some("plain")),
            ("Digest ,, username=plain,", Some("plain")),
            (r#"Digest username="""#, Some("")),
            ("Digest username*=UTF-8''J%c3%bcrgen, realm=x", Some("Jürgen")),
            ("Digest username*=utf-8'de'J%c3%bcrgen", Some("Jürgen")),
            ("Digest username*=iso-8859-1''J%fcrgen", None),
            ("Digest username*=UTF-8''%ff", None),
            ("Digest username=a, username*=UTF-8''b", None),
            ("Digest username=a, username=b", None),
            (r#"Digest username="open"#, None),
            (r#"Digest username="a\"#, None),
            (r#"Digest username="a"b"#, None),
            ("Digest realm=x", None),
            ("Digest", None),
            ("Basic username=a", None),
        ] {
            let headers = headers(&[line]);
            assert_eq!(digest_user(&headers).as_deref(), user.map(str::as_bytes), "{line}");
        }
    }
}
