//! A response's head as bytes.

use http::{Response, StatusCode, header};
use hyper::ext::ReasonPhrase;

use crate::exchange::Body;
use crate::http1::{Framing, fields};

/// What is said about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// Nothing: it goes on.
    Kept,
    /// The same, to one who does not take that for granted.
    KeepAlive,
    /// This is its last response.
    Close,
    /// From here on it is something else.
    Upgraded,
}

/// Writes a head, always as HTTP/1.1. `framing` and `persistence` alone say how long the body is and what becomes of
/// the connection, whatever the fields say; where there is no body they may tell the length of one that does not come.
pub(super) fn head(
    out: &mut Vec<u8>,
    head: &Response<Body>,
    framing: Framing,
    persistence: Persistence,
    date: impl FnOnce(&mut Vec<u8>),
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status().as_str().as_bytes());
    out.push(b' ');
    match head.extensions().get::<ReasonPhrase>() {
        Some(reason) => out.extend_from_slice(reason.as_bytes()),
        None => out.extend_from_slice(head.status().canonical_reason().unwrap_or_default().as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
    let tells_length = framing == Framing::None && may_tell_length(head.status());
    let mut dated = false;
    for (name, value) in head.headers() {
        match *name {
            header::TRANSFER_ENCODING | header::CONNECTION => continue,
            header::CONTENT_LENGTH if !tells_length => continue,
            header::DATE => dated = true,
            _ => {}
        }
        fields::write(out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(head.body().lines());
    framing.write(out);
    if !dated {
        date(out);
    }
    match persistence {
        Persistence::Kept => {}
        Persistence::KeepAlive => out.extend_from_slice(b"connection: keep-alive\r\n"),
        Persistence::Close => out.extend_from_slice(b"connection: close\r\n"),
        Persistence::Upgraded => out.extend_from_slice(b"connection: upgrade\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a response without a body may say how long it would be (RFC 9110 §8.6).
fn may_tell_length(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT
}
