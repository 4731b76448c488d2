use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;

fn parse(text: &str) -> Result<Head, Fault> {
    let mut inbox = BytesMut::from(text);
    take(&mut inbox, &mut HeaderMap::new()).map(|head| head.unwrap_or_else(|| panic!("{text:?} is no head")))
}

#[test]
fn framing_and_persistence() {
    for (fields, decoder, keep) in [
        ("", Decoder::Done, true),
        ("content-length: 5\r\n", Decoder::Length(5), true),
        ("content-length: 005\r\nContent-Length:5\r\n", Decoder::Length(5), true),
        ("content-length: 0\r\n", Decoder::Done, true),
        ("transfer-encoding: Chunked\r\n", Decoder::chunked(), true),
        ("transfer-encoding: chunked\r\ncontent-length: 5\r\n", Decoder::chunked(), false),
        ("content-length: 5\r\ntransfer-encoding: chunked\r\n", Decoder::chunked(), false),
        ("connection: close\r\n", Decoder::Done, false),
        ("connection: x, Close\r\nconnection: keep-alive\r\n", Decoder::Done, false),
    ] {
        let head = parse(&format!("GET / HTTP/1.1\r\n{fields}\r\n")).unwrap();
        assert_eq!((head.decoder, head.keep), (decoder, keep), "{fields}");
    }
    for (fields, keep) in
        [("", false), ("connection: keep-alive\r\n", true), ("connection: close\r\n", false)]
    {
        assert_eq!(parse(&format!("GET / HTTP/1.0\r\n{fields}\r\n")).unwrap().keep, keep, "{fields}");
    }
}

#[test]
fn what_is_expected_and_understood() {
    for (line, fields, expects) in [
        ("POST / HTTP/1.1", "expect: 100-Continue\r\ncontent-length: 1\r\n", true),
        ("POST / HTTP/1.1", "expect: 100-continue\r\ntransfer-encoding: chunked\r\n", true),
        ("POST / HTTP/1.1", "expect: 100-continue\r\n", false),
        ("POST / HTTP/1.1", "expect: other\r\ncontent-length: 1\r\n", false),
        ("POST / HTTP/1.0", "expect: 100-continue\r\ncontent-length: 1\r\n", false),
    ] {
        let head = parse(&format!("{line}\r\n{fields}\r\n")).unwrap();
        assert_eq!(head.expects_continue, expects, "{line} {fields}");
    }
    for (fields, takes) in [("te: gzip, trailers\r\n", true), ("te: gzip\r\n", false), ("", false)] {
        assert_eq!(
            parse(&format!("GET / HTTP/1.1\r\n{fields}\r\n")).unwrap().takes_trailers,
            takes,
            "{fields}"
        );
    }
}

#[test]
fn refused() {
    for (head, status) in [
        ("GET / HTTP/1.1\r\ncontent-length: 5, 5\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\ncontent-length: +5\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\ncontent-length: 18446744073709551616\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\ntransfer-encoding: chunked, chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\ntransfer-encoding: chunked, gzip\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\ntransfer-encoding:\r\n\r\n", 501),
        ("GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nx-a: 1\r\n 2\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nx-a : 1\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\n\r\n", 400),
    ] {
        assert_eq!(parse(head).map(|_| 0).unwrap_or_else(|fault| fault.status().as_u16()), status, "{head}");
    }
    let status =
        |text: String| take(&mut BytesMut::from(&*text), &mut HeaderMap::new()).err().map(Fault::status);
    let fields: String = (0..=MAX_FIELDS).map(|n| format!("x-{n}: 1\r\n")).collect();
    assert_eq!(status(format!("GET / HTTP/1.1\r\n{fields}\r\n")).unwrap().as_u16(), 431);
    assert_eq!(status(format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(MAX_HEAD))).unwrap().as_u16(), 431);
    assert_eq!(status(format!("GET /{}", "x".repeat(MAX_HEAD))).unwrap().as_u16(), 414);
    assert_eq!(status(format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(MAX_TARGET))).unwrap().as_u16(), 414);
    assert_eq!(status("x".repeat(MAX_HEAD + 1)).unwrap().as_u16(), 431);
    assert_eq!(status("\r\n".repeat(MAX_HEAD)).unwrap().as_u16(), 431);
    assert_eq!(status("GET / HTTP/1.1\r\nx: 1\r\n".to_owned()), None);
}

#[test]
fn what_follows_stays_and_memory_serves_again() {
    let mut inbox = BytesMut::from("\r\nPOST /a?b HTTP/1.1\r\nHost: \t h \r\nx-a:\r\n\r\nrest");
    let mut spare = HeaderMap::new();
    spare.insert("x-old", HeaderValue::from_static("1"));
    let head = take(&mut inbox, &mut spare).unwrap().unwrap();
    let lines: Vec<_> =
        head.parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(lines, [("host", &b"h"[..]), ("x-a", b"")]);
    assert_eq!((head.parts.method, head.parts.uri.to_string()), (Method::POST, "/a?b".to_owned()));
    assert_eq!((&inbox[..], spare.len()), (&b"rest"[..], 0));
}

/// A request as somebody understands it.
#[derive(Debug, PartialEq)]
struct Understood {
    line: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

fn understood(parts: &Parts, body: Vec<u8>) -> Understood {
    // What frames the message is compared by what comes of it.
    let framing = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let fields = parts.headers.iter().filter(|(name, _)| !framing.contains(name));
    let mut fields: Vec<_> =
        fields.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    fields.sort();
    Understood { line: format!("{} {} {:?}", parts.method, parts.uri, parts.version), fields, body }
}

fn ours(bytes: &[u8]) -> Option<Understood> {
    let mut inbox = BytesMut::from(bytes);
    let mut head = take(&mut inbox, &mut HeaderMap::new()).ok()??;
    let mut body = Vec::new();
    while !head.decoder.is_done() {
        match head.decoder.take(&mut inbox).ok()? {
            Some(frame) => body.extend(frame.into_data().unwrap_or_default()),
            None if head.decoder.is_done() => break,
            None => return None,
        }
    }
    Some(understood(&head.parts, body))
}

/// What hyper's server makes of it.
async fn theirs(bytes: &[u8]) -> Option<Understood> {
    let (near, mut far) = duplex(1 << 20);
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let sender = sender.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let _ = sender.try_send(understood(&parts, body.to_vec()));
            Ok::<_, hyper::Error>(http::Response::new(Full::new(Bytes::new())))
        }
    });
    far.write_all(bytes).await.unwrap();
    far.shutdown().await.unwrap();
    let serve = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(near), service);
    let (_, _) = tokio::join!(serve, async { far.read_to_end(&mut Vec::new()).await });
    receiver.recv().await
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "GET / HTTP/1.1",
        "POST /a?b=%20 HTTP/1.1",
        "GET http://a/b HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET / HTTP/1.0",
        "GET  / HTTP/1.1",
        "\r\nGET / HTTP/1.1",
        "GET /\u{e4} HTTP/1.1",
        "G\u{0} / HTTP/1.1",
    ]);
    let field = prop::sample::select(vec![
        "host: a",
        "Host:a",
        "x-a: \t1 \t",
        "x-a:",
        "x-a: \u{e4}",
        "content-length: 5",
        "content-length: 05",
        "content-length: 6",
        "content-length: 5, 5",
        "transfer-encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "transfer-encoding: identity",
        "connection: close",
        "x a: 1",
        "x-a : 1",
        " x-a: 1",
        "x-a: 1\rb",
        ": 1",
        "x-a",
    ]);
    let end = prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\n"]);
    let body = prop::sample::select(vec![
        "hello",
        "5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nx: 1\r\n\r\n",
        "5;a=b\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "0\r\n\r\n",
        "",
        "GET /next HTTP/1.1\r\nhost: a\r\n\r\n",
    ]);
    (line, prop::collection::vec((field, end.clone()), 0..5), end, body).prop_map(
        |(line, fields, end, body)| {
            let fields: String = fields.iter().map(|(field, end)| format!("{field}{end}")).collect();
            format!("{line}\r\n{fields}{end}{body}").into_bytes()
        },
    )
}

proptest! {
    /// What is accepted here means the same to hyper. The reverse does not hold: hyper decodes some codings that are
    /// refused here.
    #[test]
    fn hyper_understands_the_same(message in any_message()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        if let Some(ours) = ours(&message) {
            let theirs = runtime.block_on(theirs(&message));
            prop_assert_eq!(Some(ours), theirs, "{}", String::from_utf8_lossy(&message));
        }
    }
}
