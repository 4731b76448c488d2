//! A request's head: parsed by `httparse` with none of its leniencies, then asked how the body is framed (RFC 9112 §6)
//! and whether the connection goes on (§9.3).
//!
//! What others would read in another way is refused: lengths that are lists, transfer codings beyond one `chunked`.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri, Version};
use httparse::{ParserConfig, Status};

use crate::fault::Fault;
use crate::http1::fields::{Fields, Found, Span, elements, explain};
use crate::http1::{Decoder, MAX_FIELDS, Malformed};

/// Bytes of a head. Fields of 64 KiB and a target beside them fit, so that what is too long can be told from what is
/// too much.
pub(super) const MAX_HEAD: usize = 96 * 1024;

/// Bytes of a target, which is as much as `http` can hold.
const MAX_TARGET: usize = 65_534;

/// Fields that are likely to be added on the way; growing the map for them would cost more.
const ADDED: usize = 8;

/// What a head says.
#[derive(Debug)]
pub(super) struct Head {
    /// Boxed, because it is handed on from step to step.
    pub(super) parts: Box<Parts>,
    pub(super) decoder: Decoder,
    /// Whether the connection can be used again afterwards.
    pub(super) keep: bool,
    /// Whether the body comes only if it is asked for.
    pub(super) expects_continue: bool,
    /// Whether trailers would be understood.
    pub(super) takes_trailers: bool,
}

/// Takes a head from the start of `inbox`; `None` if it is not all there. The fields get into `spare`, which is left
/// empty, so that its memory serves again.
pub(super) fn take(inbox: &mut BytesMut, spare: &mut HeaderMap) -> Result<Option<Head>, Fault> {
    let mut space = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let config = ParserConfig::default();
    let length = match config.parse_request_with_uninit_headers(&mut parsed, inbox, &mut space) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if inbox.len() <= MAX_HEAD => return Ok(None),
        Ok(Status::Partial) => return Err(too_large(parsed.method.is_some() && parsed.path.is_none())),
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::HeadTooLarge),
        Err(error) => return Err(Fault::Malformed(explain(error))),
    };
    let bad_method = Fault::Malformed("the method is invalid");
    let method =
        parsed.method.and_then(|method| Method::from_bytes(method.as_bytes()).ok()).ok_or(bad_method)?;
    let is_1_1 = parsed.version == Some(1);
    let start = inbox.as_ptr().addr();
    let target = Span::of(parsed.path.unwrap_or_default().as_bytes(), start);
    let fields = Fields::of(parsed.headers, start);
    let bytes = inbox.split_to(length).freeze();
    if target.end - target.start > MAX_TARGET {
        return Err(Fault::TargetTooLong);
    }
    let uri = Uri::from_maybe_shared(bytes.slice(target.start..target.end))
        .map_err(|_| Fault::Malformed("the request target is neither a path nor a URL"))?;
    let mut headers = std::mem::take(spare);
    headers.clear();
    let said = collect(&bytes, &fields, &mut headers)?;
    let decoder = decoder(&said.found, is_1_1)?;
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.uri = uri;
    parts.version = if is_1_1 { Version::HTTP_11 } else { Version::HTTP_10 };
    parts.headers = headers;
    Ok(Some(Head {
        parts: Box::new(parts),
        keep: said.found.keeps(is_1_1),
        expects_continue: said.expects_continue && is_1_1 && !decoder.is_done(),
        takes_trailers: said.takes_trailers,
        decoder,
    }))
}

/// `in_target`: its end was not found yet.
const fn too_large(in_target: bool) -> Fault {
    if in_target { Fault::TargetTooLong } else { Fault::HeadTooLarge }
}

/// What matters here of the fields.
#[derive(Default)]
struct Said {
    found: Found,
    expects_continue: bool,
    takes_trailers: bool,
}

fn collect(bytes: &Bytes, fields: &Fields, headers: &mut HeaderMap) -> Result<Said, Fault> {
    let mut said = Said::default();
    headers.reserve(fields.len() + ADDED);
    for field in fields.read(bytes) {
        let (name, value) = field.map_err(|Malformed(why)| Fault::Malformed(why))?;
        match name {
            header::CONTENT_LENGTH => {
                said.found.length(value.as_bytes()).map_err(|Malformed(why)| Fault::Malformed(why))?;
            }
            header::TRANSFER_ENCODING => coding(&mut said.found, &value)?,
            header::CONNECTION => drop(said.found.connection(&value)),
            header::EXPECT => said.expects_continue = value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
            header::TE => {
                said.takes_trailers |=
                    elements(&value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
            }
            _ => {}
        }
        headers.append(name, value);
    }
    Ok(said)
}

/// Only `chunked` is undone here; what is left of others would be passed on without its name.
fn coding(found: &mut Found, value: &HeaderValue) -> Result<(), Fault> {
    let again = found.coding == Some(true);
    found.coding(value);
    match found.coding {
        Some(true) => Ok(()),
        _ if again || elements(value).all(|coding| coding.eq_ignore_ascii_case(b"chunked")) => {
            Err(Fault::Malformed("the transfer coding chunked is applied twice"))
        }
        _ => Err(Fault::TransferCoding),
    }
}

fn decoder(found: &Found, is_1_1: bool) -> Result<Decoder, Fault> {
    match (found.coding, found.length) {
        (Some(_), _) if !is_1_1 => Err(Fault::Malformed("HTTP/1.0 knows no transfer codings")),
        (Some(_), _) => Ok(Decoder::chunked()),
        (None, Some(length)) => Ok(Decoder::length(length)),
        (None, None) => Ok(Decoder::Done),
    }
}

#[cfg(test)]
mod tests;
