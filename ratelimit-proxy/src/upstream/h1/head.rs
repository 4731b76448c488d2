//! A response's head: parsed by `httparse` with none of its leniencies, then asked how the body is framed
//! (RFC 9112 §6.3) and whether the connection goes on (§9.3).

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use http::{Response, StatusCode, Version};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;
use smallvec::SmallVec;

use super::Malformed;
use super::body::Decoder;

/// Fields that a head may have.
const MAX_FIELDS: usize = 100;

/// Fields that are likely to be added on the way to the client; growing the map for them would cost more.
const ADDED: usize = 6;

/// What a head says.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Parts,
    pub(super) decoder: Decoder,
    /// Whether the connection can be used again afterwards.
    pub(super) keep: bool,
}

/// What the start of the bytes is.
#[derive(Debug)]
pub(super) enum Parsed {
    /// Less than a head.
    Partial,
    /// A head that says nothing final, of so many bytes, which have been taken away.
    Informational(usize),
    /// The head of the response, which has been taken away.
    Final(Head),
}

/// Where a field is, from the start of the head.
struct Span {
    name: (usize, usize),
    value: (usize, usize),
}

/// Takes a head from the start of `inbox`. `bodiless`: the request was HEAD. The fields get into `headers`, which
/// is left empty, so that its memory serves again.
pub(super) fn take(
    inbox: &mut BytesMut,
    bodiless: bool,
    headers: &mut HeaderMap,
) -> Result<Parsed, Malformed> {
    let mut spans = SmallVec::<[Span; 24]>::new();
    let mut space = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, inbox, &mut space) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(Parsed::Partial),
        Err(error) => return Err(Malformed(explain(error))),
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Malformed("the status is no number from 100 to 999"))?;
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        drop(inbox.split_to(length));
        return Ok(Parsed::Informational(length));
    }
    let reason = parsed.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    let is_1_1 = parsed.version == Some(1);
    let start = inbox.as_ptr().addr();
    let place = |bytes: &[u8]| {
        let from = bytes.as_ptr().addr().wrapping_sub(start);
        (from, from.wrapping_add(bytes.len()))
    };
    spans.extend(
        parsed
            .headers
            .iter()
            .map(|field| Span { name: place(field.name.as_bytes()), value: place(field.value) }),
    );
    let bytes = inbox.split_to(length).freeze();
    let mut fields = std::mem::take(headers);
    fields.clear();
    let found = collect(&bytes, &spans, &mut fields)?;
    let decoder = found.decoder(status, bodiless, is_1_1)?;
    let keep = found.keeps(is_1_1) && decoder.has_end();
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = status;
    parts.version = if is_1_1 { Version::HTTP_11 } else { Version::HTTP_10 };
    parts.headers = fields;
    if let Some(reason) = reason {
        parts.extensions.insert(reason);
    }
    Ok(Parsed::Final(Head { parts, decoder, keep }))
}

/// Whether bytes from `from` on can hold the end of a head, which is an empty line.
pub(super) fn may_end(inbox: &[u8], from: usize) -> bool {
    let mut line_ends = inbox.get(from.saturating_sub(2)..).unwrap_or_default().split(|byte| *byte == b'\n');
    // What comes before the first line end is part of a longer line.
    line_ends.next();
    let Some(_unfinished) = line_ends.next_back() else { return false };
    line_ends.any(|line| matches!(line, b"" | b"\r"))
}

fn explain(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "the head has a field with an invalid name",
        httparse::Error::HeaderValue => "the head has a field with an invalid value",
        httparse::Error::NewLine => "the head has an invalid line end",
        httparse::Error::Status => "the status is no number of three digits",
        httparse::Error::TooManyHeaders => "the head has too many fields",
        httparse::Error::Version => "it is no HTTP/1",
        httparse::Error::Token => "the head has an invalid token",
    }
}

/// What matters here of the fields.
#[derive(Default)]
struct Found {
    length: Option<u64>,
    /// Whether there is a transfer coding, and whether chunked is all there is.
    coding: Option<bool>,
    close: bool,
    keep_alive: bool,
}

fn collect(bytes: &Bytes, spans: &[Span], fields: &mut HeaderMap) -> Result<Found, Malformed> {
    let mut found = Found::default();
    fields.reserve(spans.len() + ADDED);
    for span in spans {
        let name = bytes.get(span.name.0..span.name.1).unwrap_or_default();
        let name = HeaderName::from_bytes(name).map_err(|_| Malformed("the name of a field is invalid"))?;
        let value = HeaderValue::from_maybe_shared(bytes.slice(span.value.0..span.value.1))
            .map_err(|_| Malformed("the value of a field is invalid"))?;
        match name {
            header::CONTENT_LENGTH => found.length(&value)?,
            header::TRANSFER_ENCODING => found.coding(&value),
            // Obeyed here; kept only if it is about other fields.
            header::CONNECTION if found.connection(&value) => continue,
            _ => {}
        }
        fields.append(name, value);
    }
    Ok(found)
}

impl Found {
    /// Several lengths may be given if they are one and the same.
    fn length(&mut self, value: &HeaderValue) -> Result<(), Malformed> {
        for number in elements(value) {
            let length = number_of(number).ok_or(Malformed("a length is no number"))?;
            if self.length.is_some_and(|before| before != length) {
                return Err(Malformed("there are two lengths"));
            }
            self.length = Some(length);
        }
        Ok(())
    }

    fn coding(&mut self, value: &HeaderValue) {
        for coding in elements(value) {
            self.coding = Some(self.coding.is_none() && coding.eq_ignore_ascii_case(b"chunked"));
        }
    }

    /// Returns whether the line is about nothing else than persistence.
    fn connection(&mut self, value: &HeaderValue) -> bool {
        let mut nothing_else = true;
        for option in elements(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else {
                nothing_else = false;
            }
        }
        nothing_else
    }

    fn decoder(&self, status: StatusCode, bodiless: bool, is_1_1: bool) -> Result<Decoder, Malformed> {
        let never = status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        if bodiless || never {
            return Ok(Decoder::Done);
        }
        match (self.coding, self.length) {
            (Some(_), _) if !is_1_1 => Err(Malformed("HTTP/1.0 knows no transfer codings")),
            (Some(true), _) => Ok(Decoder::chunked()),
            // Its name can't be passed on, so nobody could decode it.
            (Some(false), _) => Err(Malformed("there is a transfer coding other than chunked")),
            (None, Some(length)) => Ok(Decoder::length(length)),
            (None, None) => Ok(Decoder::UntilClose),
        }
    }

    fn keeps(&self, is_1_1: bool) -> bool {
        // Who says both a length and a coding may have been made to say so.
        let ambiguous = self.coding.is_some() && self.length.is_some();
        !self.close && !ambiguous && (is_1_1 || self.keep_alive)
    }
}

/// The elements of a list, of which there is at least one, if an empty one.
fn elements(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn number_of(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Head, &'static str> {
        let mut inbox = BytesMut::from(text);
        match take(&mut inbox, false, &mut HeaderMap::new()) {
            Ok(Parsed::Final(head)) => Ok(head),
            Ok(other) => panic!("{text:?} gives {other:?}"),
            Err(malformed) => Err(malformed.0),
        }
    }

    #[test]
    fn framing_and_persistence() {
        let chunked = || Decoder::chunked();
        for (head, decoder, keep) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n", Decoder::Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 005, 5\r\nContent-Length:5\r\n", Decoder::Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n", Decoder::Done, true),
            ("HTTP/1.1 200 OK\r\n", Decoder::UntilClose, false),
            ("HTTP/1.1 200\r\ntransfer-encoding: Chunked\r\n", chunked(), true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n", chunked(), false),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n", chunked(), false),
            ("HTTP/1.1 204 No Content\r\n", Decoder::Done, true),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n", Decoder::Done, true),
            ("HTTP/1.1 101 Switching Protocols\r\n", Decoder::Done, true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: x, Close\r\n", Decoder::Length(5), false),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\nconnection: keep-alive\r\n",
                Decoder::Length(5),
                false,
            ),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n", Decoder::Length(5), false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n", Decoder::Length(5), true),
            ("HTTP/1.1 999 What\ncontent-length: 5\n", Decoder::Length(5), true),
        ] {
            let parsed = parse(&format!("{head}\r\n")).unwrap();
            assert_eq!((parsed.decoder, parsed.keep), (decoder, keep), "{head}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_malformed() {
        for head in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5,\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0x5\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length:\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding:\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n",
            "HTTP/1.1 200 OK\r\nx-a: 1\r\n 2\r\n",
            "HTTP/1.1 200 OK\r\nx-a : 1\r\n",
            "HTTP/1.1 200 OK\r\n x-a: 1\r\n",
            "HTTP/1.1 200 OK\r\nx-a: 1\rx-b: 2\r\n",
            "HTTP/1.1 200 OK\r\nx-a: \0\r\n",
            "HTTP/1.1 099 OK\r\n",
            "HTTP/1.1  200 OK\r\n",
            "HTTP/2.0 200 OK\r\n",
            "ICY 200 OK\r\n",
        ] {
            assert!(parse(&format!("{head}\r\n")).is_err(), "{head}");
        }
        let many: String = (0..=MAX_FIELDS).map(|n| format!("x-{n}: 1\r\n")).collect();
        assert!(parse(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")).is_err());
    }

    #[test]
    fn values_are_slices_and_what_follows_stays() {
        let mut inbox = BytesMut::from("HTTP/1.1 200 Fine\r\nX-A: \t one two \r\nx-a:\r\n\r\nrest");
        let mut headers = HeaderMap::new();
        headers.insert("x-old", HeaderValue::from_static("1"));
        let Ok(Parsed::Final(head)) = take(&mut inbox, false, &mut headers) else { panic!() };
        let lines = head.parts.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
        assert_eq!(lines.collect::<Vec<_>>(), [("x-a", "one two"), ("x-a", "")]);
        assert_eq!(head.parts.extensions.get::<ReasonPhrase>().unwrap().as_bytes(), b"Fine");
        assert_eq!(inbox, "rest");
    }

    #[test]
    fn informational_heads_are_told_apart() {
        let mut inbox = BytesMut::from("HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 204 \r\n\r");
        let mut headers = HeaderMap::new();
        assert!(matches!(take(&mut inbox, false, &mut headers), Ok(Parsed::Informational(37))));
        assert!(matches!(take(&mut inbox, false, &mut headers), Ok(Parsed::Partial)));
    }

    /// The end is never missed, however the bytes came.
    #[test]
    fn an_end_is_suspected_wherever_there_is_one() {
        for head in ["a\r\nb\r\n\r\n", "a\nb\n\n", "a\r\nb\n\r\n", "\r\n\r\n"] {
            let bytes = head.as_bytes();
            for before in 0..bytes.len() {
                assert!(may_end(bytes, before), "{head:?} after {before}");
            }
        }
        assert!(!may_end(b"a\r\nb\r\nc", 0) && !may_end(b"a\r\nb\r\n", 0) && !may_end(b"", 0));
    }
}
