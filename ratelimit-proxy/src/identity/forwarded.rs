//! The `Forwarded` field (RFC 7239), read from the right.
//!
//! What a trusted proxy appended stands at the right end and is well formed; what stands left of it may be
//! anything. Reading from the left would let a client's open quote swallow the proxy's word. From the right
//! a quoted string has one reading too: it starts at the nearest quote that no odd number of backslashes
//! precedes, since what stands before an opening quote is always `=`.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::node;

/// The longest node that can be an address, with room for brackets, zone and port.
const MAX_NODE: usize = 80;

/// The elements of one line, from the right; empty ones are left out (RFC 9110 §5.6.1).
pub fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let Some(comma) = last_comma(line) else { return rest.take() };
        rest = line.get(..comma);
        line.get(comma + 1..)
    })
    .map(<[u8]>::trim_ascii)
    .filter(|element| !element.is_empty())
}

fn last_comma(line: &[u8]) -> Option<usize> {
    let mut quoted = false;
    for (at, byte) in line.iter().enumerate().rev() {
        match byte {
            b'"' if !quoted => quoted = true,
            b'"' if !is_escaped(line, at) => quoted = false,
            b',' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

fn is_escaped(line: &[u8], at: usize) -> bool {
    let before = line.get(..at).unwrap_or_default();
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The address that an element's one `for` names; `None` where the element is malformed, has no `for`, or one
/// that is no address. Blanks around `;` and unquoted colons and brackets are let pass: proxies write them.
#[must_use]
pub fn client(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    let mut rest = element.trim_ascii();
    while !rest.is_empty() {
        let (name, value) = rest.split_at_checked(rest.iter().position(|byte| *byte == b'=')?)?;
        let value = value.get(1..)?;
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return None;
        }
        let (value, behind) = match value.strip_prefix(b"\"") {
            Some(value) => quoted(value)?,
            None => plain(value)?,
        };
        if name.eq_ignore_ascii_case(b"for") && found.replace(value).is_some() {
            return None;
        }
        rest = match behind.trim_ascii_start() {
            [] => &[],
            [b';', rest @ ..] => rest.trim_ascii_start(),
            _ => return None,
        };
    }
    node::address(&found?)
}

/// The start of a value: only the zone of an address could be longer, and it is left out anyway.
type Value = SmallVec<[u8; MAX_NODE]>;

fn plain(text: &[u8]) -> Option<(Value, &[u8])> {
    let ends = |byte: &u8| matches!(byte, b';' | b'"' | b' ' | b'\t');
    let (value, behind) = text.split_at_checked(text.iter().position(ends).unwrap_or(text.len()))?;
    let start = value.get(..MAX_NODE).unwrap_or(value);
    (!value.is_empty()).then(|| (start.into(), behind))
}

/// What follows an opening quote: the value without its escapes, and what follows the closing quote.
fn quoted(text: &[u8]) -> Option<(Value, &[u8])> {
    let mut value = Value::new();
    let mut bytes = text.iter().enumerate();
    loop {
        let (_, byte) = match bytes.next()? {
            (at, b'"') => return Some((value, text.get(at + 1..)?)),
            (_, b'\\') => bytes.next()?,
            other => other,
        };
        if value.len() < MAX_NODE {
            value.push(*byte);
        }
    }
}

/// RFC 9110 §5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clients(line: &str) -> Vec<Option<String>> {
        elements(line.as_bytes()).map(|element| client(element).map(|ip| ip.to_string())).collect()
    }

    #[test]
    fn elements_of_the_standard() {
        for (element, expected) in [
            ("for=192.0.2.43", Some("192.0.2.43")),
            ("for=\"[2001:db8:cafe::17]:4711\"", Some("2001:db8:cafe::17")),
            ("For=\"[2001:db8::1]\";proto=https;by=203.0.113.43", Some("2001:db8::1")),
            ("proto=http; host=\"a,b;c=\\\"d\\\"\" ;for=192.0.2.60", Some("192.0.2.60")),
            ("for=\"192.0.2.43:47011\"", Some("192.0.2.43")),
            ("for=\"\\1\\9\\2.0.2.1\"", Some("192.0.2.1")),
            ("for=192.0.2.1;", Some("192.0.2.1")),
            ("for=[::ffff:1.2.3.4]:80", Some("1.2.3.4")),
            ("for=\"_gazonk\"", None),
            ("for=unknown", None),
            ("for=", None),
            ("for=\"192.0.2.1", None),
            ("for=\"192.0.2.1\"x", None),
            ("for=192.0.2.1 192.0.2.2", None),
            ("for=192.0.2.1;for=192.0.2.2", None),
            ("proto=https", None),
            ("192.0.2.1", None),
            ("f or=192.0.2.1", None),
            ("=192.0.2.1", None),
        ] {
            assert_eq!(client(element.as_bytes()).map(|ip| ip.to_string()).as_deref(), expected, "{element}");
        }
        let long = format!("for=192.0.2.1;host=\"{}\"", "x".repeat(1000));
        assert!(client(long.as_bytes()).is_some());
        assert!(client(format!("for=\"1.2.3.4{}\"", " ".repeat(1000)).as_bytes()).is_none());
    }

    #[test]
    fn from_the_right() {
        let ip = |text: &str| Some(text.to_owned());
        assert_eq!(
            clients("for=1.1.1.1, for=2.2.2.2,,for=3.3.3.3 "),
            [ip("3.3.3.3"), ip("2.2.2.2"), ip("1.1.1.1")]
        );
        assert_eq!(clients("for=1.1.1.1;host=\"a, b\", for=2.2.2.2"), [ip("2.2.2.2"), ip("1.1.1.1")]);
        assert_eq!(clients("for=1.1.1.1;host=\"\\\", \\\\\", for=2.2.2.2"), [ip("2.2.2.2"), ip("1.1.1.1")]);
        assert!(clients(" , ").is_empty());
    }

    /// Whatever a client sent before, quotes left open included, the word of the proxy behind it stands.
    #[test]
    fn an_open_quote_swallows_nothing() {
        for evil in ["for=\"6.6.6.6", "\"", "for=\"\\", "\\\"", "for=\"6.6.6.6, for=\"7.7.7.7"] {
            assert_eq!(clients(&format!("{evil}, for=2.2.2.2"))[0].as_deref(), Some("2.2.2.2"), "{evil}");
            let quoted = format!("{evil}, for=\"[2001:db8::1]:1\";host=\"x,\\\"y\"");
            assert_eq!(clients(&quoted)[0].as_deref(), Some("2001:db8::1"), "{evil}");
        }
    }

    proptest! {
        #[test]
        fn the_last_word_is_the_proxys(evil in "[ -~]{0,60}", ip: IpAddr, host in "[ -~]{0,20}") {
            let host = host.replace('\\', "\\\\").replace('"', "\\\"");
            let line = format!("{evil}, for=\"{}\";host=\"{host}\"", match ip {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            });
            let last = elements(line.as_bytes()).next().unwrap();
            prop_assert_eq!(client(last), Some(ip.to_canonical()));
        }

        #[test]
        fn nothing_panics(line: Vec<u8>) {
            for element in elements(&line) {
                let _ = client(element);
            }
        }
    }
}
