//! The connection over a pipe that brings and takes what a test says, and the same bytes split everywhere.

use std::convert::Infallible;

use http::StatusCode;
use http_body_util::{Empty, Full, StreamBody};
use proptest::prelude::*;

use super::super::scripted::{End, Script, connection, cx, get, outcome, read, request, until};
use super::*;

/// Responses of every kind, good and bad.
pub(in crate::upstream::h1) fn corpus() -> Vec<Vec<u8>> {
    let mut corpus: Vec<Vec<u8>> = [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\nX-A: 1\r\nx-a: 2\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-t: 1\r\nX-U: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n0\r\nx-t: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloo\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10000000000000000\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 99\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx-a: b\r\n\r\nto the end",
        "HTTP/1.0 200 OK\r\n\r\nto the end",
        "HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\nhello",
        "HTTP/1.1 204 No Content\r\nx-a: b\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\nx-a: 1\ncontent-length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nx-a: 1\r\n 2\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nx-a : 1\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok",
        "\r\n\r\nHTTP/1.1 404 Gone Fishing\r\ncontent-length: 2\r\n\r\nno",
        "HTTP/1.1 200 OK\r\nx-obs: \u{e4}\u{f6}\r\ncontent-length: 2\r\n\r\nok",
        "220 smtp.example.com ESMTP\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    let many: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
    corpus.push(format!("HTTP/1.1 200 OK\r\n{many}\r\n").into_bytes());
    let hundred: String = (0..99).map(|n| format!("x-{n}: 1\r\n")).collect();
    corpus.push(format!("HTTP/1.1 200 OK\r\n{hundred}content-length: 0\r\n\r\n").into_bytes());
    corpus
}

#[test]
fn a_response_split_anywhere_is_the_same_response() {
    for bytes in corpus() {
        for head in [get(), request("HEAD")] {
            let whole = outcome([bytes.clone()], &head);
            let single: Vec<_> = bytes.iter().map(|byte| vec![*byte]).collect();
            assert_eq!(outcome(single, &head), whole, "{}", bytes.escape_ascii());
            for place in 1..bytes.len() {
                let (one, two) = bytes.split_at(place);
                let split = outcome([one.to_vec(), two.to_vec()], &head);
                assert_eq!(split, whole, "{} | {}", one.escape_ascii(), two.escape_ascii());
            }
        }
    }
}

/// Responses put together from parts that are right, nearly right and wrong.
pub(in crate::upstream::h1) fn any_response() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "HTTP/1.1 200 OK",
        "HTTP/1.0 200 OK",
        "HTTP/1.1 204 No Content",
        "HTTP/1.1 103 Hints",
        "HTTP/1.1 abc",
        "",
    ]);
    let field = prop::sample::select(vec![
        "content-length: 5",
        "content-length: 11",
        "transfer-encoding: chunked",
        "transfer-encoding: x",
        "connection: close",
        "x-a: 1",
        "x-b:",
        " fold",
        "x c: 1",
        "content-length: 5, 5",
    ]);
    let end = prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r"]);
    let chunk = prop::sample::select(vec![
        "5\r\nhello\r\n",
        "1;x\r\na\r\n",
        "0\r\n\r\n",
        "0\r\nx-t: 1\r\n\r\n",
        "b\r\nhello",
        "\r\n",
        "g\r\n",
        "hello world",
        "HTTP/1.1 200 OK\r\n\r\n",
    ]);
    let fields = prop::collection::vec((field, end.clone()), 0..5);
    let head = (line, end.clone(), fields, end).prop_map(|(line, after, fields, end)| {
        let fields: String = fields.iter().map(|(field, end)| format!("{field}{end}")).collect();
        format!("{line}{after}{fields}{end}")
    });
    (prop::collection::vec(head, 1..3), prop::collection::vec(chunk, 0..5))
        .prop_map(|(heads, chunks)| [heads.concat(), chunks.concat()].concat().into_bytes())
}

proptest! {
    #[test]
    fn any_response_split_in_any_way_is_the_same(
        bytes in any_response(),
        sizes in prop::collection::vec(1..20_usize, 1..20),
    ) {
        let whole = outcome([bytes.clone()], &get());
        let mut rest = &bytes[..];
        let mut pieces = Vec::new();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, others) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece.to_vec());
            rest = others;
        }
        prop_assert_eq!(outcome(pieces, &get()), whole);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), split in 0..200_usize) {
        let (one, two) = bytes.split_at(split.min(bytes.len()));
        let start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        outcome([bytes.clone()], &get());
        outcome([start.to_vec(), one.to_vec(), two.to_vec()], &get());
    }
}

#[test]
fn who_may_be_used_again() {
    for (response, keeps) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok!", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-t: 1\r\n\r\n", true),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            false,
        ),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", false),
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ("HTTP/1.1 204 No Content\r\n\r\nevil", false),
    ] {
        let mut connection = connection([response.as_bytes().to_vec()], End::Waits);
        assert!(read(&mut connection, &get()).unwrap().complete, "{response}");
        assert_eq!(connection.is_ready(), keeps, "{response}");
    }
}

#[test]
fn one_read_brings_a_response_and_the_next_one_finds_the_connection_ready() {
    let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
    let mut connection = connection(vec![response; 1000], End::Waits);
    for number in 0..1000 {
        assert!(read(&mut connection, &get()).unwrap().complete, "{number}");
        assert!(connection.can_be_kept(), "{number}");
    }
    // The pipe says nothing at every other asking.
    assert_eq!(connection.io.reads, 2000);
}

#[test]
fn what_comes_while_nobody_asked_ends_it() {
    for end in [End::Closes, End::Breaks] {
        let mut connection = connection([b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()], end);
        assert!(read(&mut connection, &get()).unwrap().complete);
        assert!(connection.can_be_kept());
        assert!(!connection.is_ready(), "{end:?}");
    }
    let pieces = [b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), b"HTTP/1.1 200 OK\r\n".to_vec()];
    let mut connection = connection(pieces, End::Waits);
    assert!(read(&mut connection, &get()).unwrap().complete);
    assert!(!connection.is_ready());
}

#[test]
fn silence_is_told_from_breaking_off_and_from_nonsense() {
    let answer =
        |bytes: &str, end| read(&mut connection([bytes.as_bytes().to_vec()], end), &get()).unwrap_err();
    for end in [End::Closes, End::Breaks] {
        assert!(matches!(read(&mut connection([], end), &get()), Err(Error::Silent)));
        assert!(matches!(answer("HTTP/1.1 2", end), Error::BrokenOff));
        assert!(matches!(answer("HTTP/1.1 100 Continue\r\n\r\n", end), Error::BrokenOff));
        assert!(matches!(answer("SSH-2.0\r\n", end), Error::Malformed(_)));
    }
}

#[test]
fn heads_have_a_size_informational_ones_included() {
    let response = |size: usize| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: {}\r\n\r\n", "x".repeat(size - 43));
        assert_eq!(head.len(), size);
        head.into_bytes()
    };
    assert!(outcome([response(MAX_HEADS)], &get()).is_some());
    assert!(outcome([response(MAX_HEADS + 1)], &get()).is_none());
    assert!(outcome([vec![b'\n'; MAX_HEADS + 1]], &get()).is_none());
    let hints = b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n";
    let last = response(100);
    let some = [hints.repeat(1000), last.clone()].concat();
    assert!(outcome([some], &get()).is_some());
    let many = [hints.repeat(10_000), last].concat();
    assert!(outcome([many], &get()).is_none());
}

#[test]
fn a_switch_of_protocols_is_handed_over_with_what_follows_it() {
    let pieces = [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nraw".to_vec()];
    let mut connection = connection(pieces, End::Waits);
    connection.send(&get(), b"", Empty::new());
    let head = until(|cx| connection.poll_head(cx, &mut HeaderMap::new())).unwrap().unwrap();
    assert_eq!((head.status, &connection.inbox.bytes[..]), (StatusCode::SWITCHING_PROTOCOLS, &b"raw"[..]));
    assert!(!connection.can_be_kept());
}

fn upload<B: Body<Data = Bytes> + Unpin>(script: Script, method: &str, body: B) -> Connection<Script, B>
where
    B::Error: std::fmt::Debug,
{
    let mut connection = Connection::new(script, Instant::now());
    connection.send(&request(method), b"", body);
    connection
}

fn stream(
    frames: Vec<Result<Frame<Bytes>, &'static str>>,
) -> impl Body<Data = Bytes, Error = &'static str> + Unpin {
    StreamBody::new(futures_util::stream::iter(frames))
}

fn data(bytes: &'static str) -> Result<Frame<Bytes>, &'static str> {
    Ok(Frame::data(Bytes::from_static(bytes.as_bytes())))
}

#[test]
fn requests_are_framed_by_what_is_known_of_their_body() {
    let ok = || Script::new([b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()], End::Waits);
    let mut known = upload(ok(), "GET", Full::new(Bytes::from_static(b"body")));
    until(|cx| known.poll_head(cx, &mut HeaderMap::new())).unwrap().unwrap();
    assert_eq!(known.io.sent, b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody");
    assert!(known.can_be_kept());
    let trailers = Ok(Frame::trailers(HeaderMap::from_iter([(header::ETAG, "x".parse().unwrap())])));
    let mut unknown = upload(ok(), "GET", stream(vec![data("body"), data(""), data("!"), trailers]));
    until(|cx| unknown.poll_head(cx, &mut HeaderMap::new())).unwrap().unwrap();
    let sent =
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n1\r\n!\r\n0\r\n\r\n";
    assert_eq!(unknown.io.sent, sent.as_bytes());
    assert!(unknown.can_be_kept());
}

#[test]
fn trailers_are_sent_that_were_announced() {
    let trailers = || {
        let names = ["x-one", "x-two", "x-three"];
        let trailers = names.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")));
        Ok(Frame::trailers(HeaderMap::from_iter(trailers)))
    };
    for (announced, end) in [
        (Some("x-three, x-zero, x-One"), "0\r\nx-one: 1\r\nx-three: 1\r\n\r\n"),
        (Some("x-zero"), "0\r\n\r\n"),
        (None, "0\r\n\r\n"),
    ] {
        let mut head = request("POST");
        if let Some(announced) = announced {
            head.headers.insert(header::TRAILER, HeaderValue::from_static(announced));
        }
        let script = Script::new([b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()], End::Waits);
        let mut connection = Connection::new(script, Instant::now());
        connection.send(&head, b"", stream(vec![data("body"), trailers()]));
        until(|cx| connection.poll_head(cx, &mut HeaderMap::new())).unwrap().unwrap();
        let sent = String::from_utf8(connection.io.sent.clone()).unwrap();
        let body = sent.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(body, format!("4\r\nbody\r\n{end}"), "{announced:?}");
        assert!(connection.can_be_kept());
    }
}

#[test]
fn a_body_that_breaks_is_never_ended() {
    let waits = || Script::new([], End::Waits);
    let mut broken = upload(waits(), "POST", stream(vec![data("body"), Err("gone")]));
    let failed = until(|cx| broken.poll_head(cx, &mut HeaderMap::new()));
    assert!(matches!(failed, Some(Err(Error::Upload("gone")))));
    assert!(!broken.io.sent.ends_with(b"0\r\n\r\n") && !broken.can_be_kept());
}

/// A body of a known length that says another one later.
struct Lies(u64, Vec<&'static [u8]>);

impl Body for Lies {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.1.pop().map(|bytes| Ok(Frame::data(Bytes::from_static(bytes)))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}

#[test]
fn a_body_of_another_length_than_announced_is_not_sent_as_if_it_had_it() {
    for (length, pieces) in [(4, vec![&b"bo"[..]]), (4, vec![&b"dy!"[..], b"bo"]), (0, vec![&b"x"[..]])] {
        let mut connection = upload(Script::new([], End::Waits), "POST", Lies(length, pieces));
        let failed = until(|cx| connection.poll_head(cx, &mut HeaderMap::new()));
        assert!(matches!(failed, Some(Err(Error::Length))), "{length}");
        assert!(!connection.can_be_kept());
    }
}

#[test]
fn a_response_is_read_before_the_request_is_sent_in_full_and_though_nobody_takes_it() {
    for when_full in [io::ErrorKind::WouldBlock, io::ErrorKind::BrokenPipe] {
        let response = b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno".to_vec();
        let script = Script { takes: 100, when_full, ..Script::new([response], End::Closes) };
        let mut connection = upload(script, "POST", Full::new(Bytes::from(vec![b'x'; 100_000])));
        let head = until(|cx| connection.poll_head(cx, &mut HeaderMap::new())).unwrap().unwrap();
        assert_eq!(head.status, StatusCode::PAYLOAD_TOO_LARGE, "{when_full}");
        let frame = until(|cx| connection.poll_frame(cx)).unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "no");
        assert!(connection.is_end_stream() && !connection.can_be_kept());
    }
    let script = Script { takes: 10, when_full: io::ErrorKind::BrokenPipe, ..Script::new([], End::Breaks) };
    let mut connection = upload(script, "GET", Empty::new());
    let failed = until(|cx| connection.poll_head(cx, &mut HeaderMap::new()));
    assert!(matches!(failed, Some(Err(Error::Silent))));
}

/// No more is taken of a body than the other side takes, and no more is read than was asked for.
#[test]
fn both_directions_are_held_back() {
    let pulled = std::cell::Cell::new(0);
    let frames = std::iter::repeat_with(|| {
        pulled.set(pulled.get() + 1);
        Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; 10_000])))
    });
    let body = StreamBody::new(futures_util::stream::iter(frames.take(1000)));
    let script = Script { takes: 50_000, ..Script::new([], End::Waits) };
    let mut connection = Connection::new(script, Instant::now());
    connection.send(&request("POST"), b"", body);
    for _ in 0..100 {
        assert!(connection.poll_head(&mut cx(), &mut HeaderMap::new()).is_pending());
    }
    assert!(pulled.get() <= 6, "{} pieces", pulled.get());

    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n".to_vec();
    let pieces = [vec![head], vec![vec![b'x'; 100_000]; 1000]].concat();
    let mut connection = self::connection(pieces, End::Waits);
    connection.send(&get(), b"", Empty::new());
    until(|cx| connection.poll_head(cx, &mut HeaderMap::new())).unwrap().unwrap();
    until(|cx| connection.poll_frame(cx)).unwrap().unwrap().unwrap();
    assert!(connection.io.pieces.len() >= 999 && connection.inbox.bytes.capacity() <= 64 * 1024);
}
