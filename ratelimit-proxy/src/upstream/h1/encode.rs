//! A request's head as bytes.

use http::header;
use http::request::Parts;

use crate::http1::{Framing, fields};

/// Writes a head, always as HTTP/1.1, and `lines` behind its fields. `framing` alone says how long the body is,
/// whatever the fields say.
pub(super) fn head(out: &mut Vec<u8>, head: &Parts, lines: &[u8], framing: Framing) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &head.headers {
        if *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING {
            fields::write(out, name.as_str(), value.as_bytes());
        }
    }
    out.extend_from_slice(lines);
    framing.write(out);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn written(request: Request<()>, framing: Framing) -> String {
        let mut out = Vec::new();
        head(&mut out, &request.into_parts().0, b"x-more: 1\r\n", framing);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn heads() {
        let get = || Request::get("/a?b=c").header("host", "h").header("x-a", "1").header("x-a", "2");
        assert_eq!(
            written(get().body(()).unwrap(), Framing::None),
            "GET /a?b=c HTTP/1.1\r\nhost: h\r\nx-a: 1\r\nx-a: 2\r\nx-more: 1\r\n\r\n"
        );
        let options = Request::options("*").body(()).unwrap();
        assert_eq!(written(options, Framing::None), "OPTIONS * HTTP/1.1\r\nx-more: 1\r\n\r\n");
        let absolute = Request::get("http://a").body(()).unwrap();
        assert_eq!(written(absolute, Framing::None), "GET / HTTP/1.1\r\nx-more: 1\r\n\r\n");
    }

    #[test]
    fn the_length_is_said_once_whatever_the_fields_say() {
        for (framing, line) in [
            (Framing::None, ""),
            (Framing::Length(0), "content-length: 0\r\n"),
            (Framing::Length(u64::MAX), "content-length: 18446744073709551615\r\n"),
            (Framing::Chunked, "transfer-encoding: chunked\r\n"),
        ] {
            let request = Request::post("/")
                .header("content-length", "7")
                .header("transfer-encoding", "gzip")
                .header("content-length", "8")
                .body(())
                .unwrap();
            assert_eq!(written(request, framing), format!("POST / HTTP/1.1\r\nx-more: 1\r\n{line}\r\n"));
        }
    }
}
