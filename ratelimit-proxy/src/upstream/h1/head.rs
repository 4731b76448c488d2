//! A response's head: parsed by `httparse` with none of its leniencies, then asked how the body is framed
//! (RFC 9112 §6.3) and whether the connection goes on (§9.3).

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap};
use http::response::Parts;
use http::{Response, StatusCode, Version};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use crate::http1::fields::{Fields, Found, elements, explain};
use crate::http1::{Decoder, MAX_FIELDS, Malformed};

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

/// Takes a head from the start of `inbox`. `bodiless`: the request was HEAD. The fields get into `headers`, which
/// is left empty, so that its memory serves again.
pub(super) fn take(
    inbox: &mut BytesMut,
    bodiless: bool,
    headers: &mut HeaderMap,
) -> Result<Parsed, Malformed> {
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
    let spans = Fields::of(parsed.headers, start);
    let bytes = inbox.split_to(length).freeze();
    let mut fields = std::mem::take(headers);
    fields.clear();
    let found = collect(&bytes, &spans, &mut fields)?;
    let decoder = decoder(&found, status, bodiless, is_1_1)?;
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

fn collect(bytes: &Bytes, spans: &Fields, fields: &mut HeaderMap) -> Result<Found, Malformed> {
    let mut found = Found::default();
    fields.reserve(spans.len() + ADDED);
    for field in spans.read(bytes) {
        let (name, value) = field?;
        match name {
            header::CONTENT_LENGTH => elements(&value).try_for_each(|length| found.length(length))?,
            header::TRANSFER_ENCODING => found.coding(&value),
            // Obeyed here; kept only if it is about other fields.
            header::CONNECTION if found.connection(&value) => continue,
            _ => {}
        }
        fields.append(name, value);
    }
    Ok(found)
}

fn decoder(found: &Found, status: StatusCode, bodiless: bool, is_1_1: bool) -> Result<Decoder, Malformed> {
    let never =
        status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if bodiless || never {
        return Ok(Decoder::Done);
    }
    match (found.coding, found.length) {
        (Some(_), _) if !is_1_1 => Err(Malformed("HTTP/1.0 knows no transfer codings")),
        (Some(true), _) => Ok(Decoder::chunked()),
        // Its name can't be passed on, so nobody could decode it.
        (Some(false), _) => Err(Malformed("there is a transfer coding other than chunked")),
        (None, Some(length)) => Ok(Decoder::length(length)),
        (None, None) => Ok(Decoder::UntilClose),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

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
}
