//! Requests that ask for another protocol, WebSocket above all (RFC 9110 §7.8, RFC 6455).
//!
//! Until the server has said 101 such a request is like any other: it is decided and charged, and what its client sends
//! behind it is the next request. Only then both connections become one, and the request's body is all that comes from
//! the client, the response's all that comes from the server. So a tunnel has the deadlines of a body and the end of a
//! response: permits are held until it closes.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Version};

use crate::http1::fields::elements;
use crate::server::ClientBody;

/// How long a server may be silent after the client has closed its side.
pub(super) const HALF_CLOSED: Duration = Duration::from_secs(30);

/// Whether a request may become a tunnel. One with a body would leave open where that ends.
pub(super) fn may_begin(head: &Parts, body: Option<&ClientBody>) -> bool {
    head.method == Method::GET
        && head.version != Version::HTTP_10
        && body.is_some_and(ClientBody::may_be_tunnel)
}

/// The protocols that a message asks for or switches to, if it means to: `Connection` names the field that names them.
/// HTTP is not one of them; nobody here speaks it in the middle of a connection.
pub(super) fn protocols(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut options = headers.get_all(header::CONNECTION).iter().flat_map(elements);
    if !options.any(|option| option.eq_ignore_ascii_case(b"upgrade")) {
        return None;
    }
    let mut lines = headers.get_all(header::UPGRADE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let is_none = |protocol: &[u8]| {
        let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
        [&b""[..], b"h2c", b"h2", b"http", b"tls"].iter().any(|other| name.eq_ignore_ascii_case(other))
    };
    (!elements(line).any(is_none)).then(|| line.clone())
}

/// The protocol that a server has switched to, if it was asked for that.
pub(super) fn switched(asked: &HeaderValue, response: &HeaderMap) -> Option<HeaderValue> {
    let switched = protocols(response)?;
    elements(asked).any(|protocol| protocol.eq_ignore_ascii_case(switched.as_bytes())).then_some(switched)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_is_asked_for() {
        for (lines, asked) in [
            (&[("connection", "Upgrade"), ("upgrade", "websocket")][..], Some("websocket")),
            (&[("connection", "keep-alive, upgrade"), ("upgrade", "a/1, b")], Some("a/1, b")),
            (&[("connection", "keep-alive"), ("connection", "upgrade"), ("upgrade", "a")], Some("a")),
            (&[("upgrade", "websocket")], None),
            (&[("connection", "upgrade")], None),
            (&[("connection", "close"), ("upgrade", "websocket")], None),
            (&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "a")], None),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], None),
            (&[("connection", "upgrade"), ("upgrade", "websocket, H2C")], None),
            (&[("connection", "upgrade"), ("upgrade", "HTTP/2.0")], None),
            (&[("connection", "upgrade"), ("upgrade", "TLS/1.2")], None),
            (&[("connection", "upgrade"), ("upgrade", "")], None),
        ] {
            assert_eq!(protocols(&said(lines)).as_ref().map(HeaderValue::as_bytes), asked.map(str::as_bytes));
        }
    }

    #[test]
    fn a_server_switches_to_what_it_was_asked_for() {
        let asked = HeaderValue::from_static("a, WebSocket");
        for (switches, right) in [("websocket", true), ("A", true), ("b", false), ("a, websocket", false)] {
            let response = said(&[("connection", "upgrade"), ("upgrade", switches)]);
            assert_eq!(switched(&asked, &response).is_some(), right, "{switches}");
        }
        assert_eq!(switched(&asked, &said(&[("upgrade", "a")])), None);
    }
}
