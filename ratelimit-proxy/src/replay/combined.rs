//! The combined log format, and the common one, of Apache, nginx and their kin:
//! `192.0.2.1 - ann [10/Oct/2000:13:55:36 -0700] "GET /a HTTP/1.1" 200 2326 "referer" "user agent"`. What stands behind
//! is not looked at; a virtual host may stand in front.

use std::borrow::Cow;
use std::net::IpAddr;

use http::HeaderMap;
use ratelimit_core::Nanos;

use super::entry::{Entry, EntryError, Head};

pub(super) fn read(
    line: &[u8],
    time: impl FnOnce(&[u8]) -> Result<Nanos, EntryError>,
) -> Result<Entry, EntryError> {
    let (mut first, mut rest) = word(line).ok_or(EntryError::Shape)?;
    let mut host = None;
    if address(first).is_none()
        && let Some((second, behind)) = word(rest)
        && address(second).is_some()
    {
        host = Some(first);
        (first, rest) = (second, behind);
    }
    let (_, rest) = word(rest).ok_or(EntryError::Shape)?;
    // A user's name may have spaces in it; the time has not.
    let open = find(rest, b" [").ok_or(EntryError::Shape)?;
    let (user, rest) = (rest.get(..open).unwrap_or_default(), rest.get(open + 2..).unwrap_or_default());
    let close = find(rest, b"] ").ok_or(EntryError::Shape)?;
    let (stamp, rest) = (rest.get(..close).unwrap_or_default(), rest.get(close + 2..).unwrap_or_default());
    let (request, rest) = quoted(rest).ok_or(EntryError::Shape)?;
    let client = address(first).ok_or(EntryError::Client)?;
    let time = time(stamp)?;

    let request = text(&request).ok_or(EntryError::Request)?;
    let (method, target) = request.split_once(' ').ok_or(EntryError::Request)?;
    let target = target.rsplit_once(" HTTP/").map_or(target, |(target, _)| target);
    let mut head = Head::new(method, target)?;
    if let Some(host) = host.and_then(text) {
        head.host(host);
    }
    if let Some(user) = text(user.trim_ascii()) {
        head.user(user);
    }
    let (status, rest) = word(rest).unwrap_or_default();
    let (_size, rest) = word(rest).unwrap_or_default();
    if let Some((referer, rest)) = quoted(rest) {
        given(&mut head, "referer", &referer);
        if let Some((agent, _)) = quoted(rest) {
            given(&mut head, "user-agent", &agent);
        }
    }
    let status = text(status).and_then(|status| status.parse().ok());
    Ok(Entry {
        time,
        coarse: true,
        client,
        head: head.done(),
        status,
        duration: None,
        answer: HeaderMap::new(),
    })
}

fn given(head: &mut Head, name: &str, value: &[u8]) {
    if let Some(value) = text(value).filter(|value| *value != "-") {
        head.field(name, value);
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn address(word: &[u8]) -> Option<IpAddr> {
    text(word)?.parse().ok()
}

/// Up to the next space, and what is behind it.
fn word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.trim_ascii_start();
    if line.is_empty() {
        return None;
    }
    let end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    Some(line.split_at(end))
}

fn find(line: &[u8], what: &[u8]) -> Option<usize> {
    line.windows(what.len()).position(|window| window == what)
}

/// What stands in quotes, without what escapes it: `\"` and `\\` of Apache, `\x22` of both.
fn quoted(line: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let line = line.trim_ascii_start().strip_prefix(b"\"")?;
    let end = line.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    let (plain, mut rest) = line.split_at(end);
    if let [b'"', behind @ ..] = rest {
        return Some((Cow::Borrowed(plain), behind));
    }
    let mut value = plain.to_vec();
    loop {
        match rest {
            [b'"', behind @ ..] => return Some((Cow::Owned(value), behind)),
            [b'\\', b'x', high, low, behind @ ..] => {
                let digit =
                    |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                value.push(digit(*high)? << 4 | digit(*low)?);
                rest = behind;
            }
            [b'\\', escaped, behind @ ..] => {
                value.push(match escaped {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    other => *other,
                });
                rest = behind;
            }
            [byte, behind @ ..] => {
                value.push(*byte);
                rest = behind;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Reader;
    use super::*;

    #[test]
    fn lines_of_apache_and_nginx() {
        let mut reader = Reader::default();
        let line = br#"127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a%20b?c=d HTTP/1.0" 200 2326 "http://x/\"q\"" "Mozilla/4.08 \x22x\x22" "-" 0.01"#;
        let entry = reader.read(line).unwrap();
        assert_eq!(entry.time, Nanos::from_secs(971_211_336));
        assert_eq!((entry.client, entry.status), ("127.0.0.1".parse().unwrap(), Some(200)));
        assert_eq!(
            (entry.head.method.as_str(), entry.head.uri.to_string()),
            ("GET", "/a%20b?c=d".to_owned())
        );
        assert_eq!(entry.head.headers["referer"], "http://x/\"q\"");
        assert_eq!(entry.head.headers["user-agent"], "Mozilla/4.08 \"x\"");
        assert_eq!(entry.head.headers["authorization"], "Basic ZnJhbms6");
    }

    #[test]
    fn common_lines_hosts_in_front_and_other_addresses() {
        let mut reader = Reader::default();
        let entry =
            reader.read(b"2001:db8::1 - - [01/Jan/2026:00:00:00 +0000] \"POST /x HTTP/2.0\" 429 -").unwrap();
        assert_eq!((entry.head.method.as_str(), entry.status), ("POST", Some(429)));
        assert!(entry.head.headers.is_empty());
        let line = b"api.example.com:443 10.0.0.1 - a b [01/Jan/2026:01:00:00 +0100] \"GET / HTTP/1.1\" 200 1 \"-\" \"-\"\r\n";
        let entry = reader.read(line).unwrap();
        assert_eq!(entry.head.headers["host"], "api.example.com:443");
        assert_eq!(entry.time, Nanos::from_secs(1_767_225_600));
        assert!(!entry.head.headers.contains_key("referer"));
    }

    #[test]
    fn lines_that_are_no_requests() {
        let mut reader = Reader::default();
        for (line, error) in [
            ("", EntryError::Shape),
            ("hello", EntryError::Shape),
            ("a b c d e f", EntryError::Shape),
            ("localhost - - [10/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.0\" 200 1", EntryError::Client),
            ("1.1.1.1 - - [10/Okt/2000:13:55:36 -0700] \"GET / HTTP/1.0\" 200 1", EntryError::Time),
            ("1.1.1.1 - - [01/Jan/1960:00:00:00 +0000] \"GET / HTTP/1.0\" 200 1", EntryError::Time),
            ("1.1.1.1 - - [10/Oct/2000:13:55:36 -0700] \"\\x16\\x03\" 400 1", EntryError::Request),
            ("1.1.1.1 - - [10/Oct/2000:13:55:36 -0700] \"-\" 408 0", EntryError::Request),
            ("1.1.1.1 - - [10/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.0", EntryError::Shape),
            ("1.1.1.1 - - [10/Oct/2000:13:55:36 -0700] \"G T / HTTP/1.0\" 200 1", EntryError::Request),
        ] {
            assert_eq!(reader.read(line.as_bytes()).err(), Some(error), "{line}");
        }
    }
}
