//! Messages that two parsers could understand in two ways: each is refused and its connection closed, or it
//! arrives at the upstream as exactly one request.
//!
//! The corpus follows RFC 9112, the desync research of 2005 to 2025 and the HTTP Garden. The upstream of these
//! tests fails them itself when a request has two framings.

use crate::support::origin::{Origin, Seen};
use crate::support::proxy::{Proxy, Setup};
use crate::support::raw_client::{self, Client};
use ratelimit_core::Limit;
use ratelimit_proxy::config::LimitConfig;

/// Asked for behind each message: it must never be understood as part of it, nor answered where the message
/// before it was in doubt.
const NEXT: &str = "GET /next HTTP/1.1\r\nhost: test\r\n\r\n";

/// What came of a message.
#[derive(Debug)]
struct Outcome {
    /// Statuses of the answers, in order.
    statuses: Vec<u16>,
    seen: Vec<Seen>,
}

/// Sends a message with another behind it and reads until the proxy closes; if it does not by itself, a last
/// request asks it to.
async fn send(message: &[u8]) -> Outcome {
    let origin = Origin::hello().await;
    // Where some limit looks at paths: then they must be readable in one way only.
    let mut elsewhere = LimitConfig::by_client(Limit::new("elsewhere", "1/day".parse().unwrap()));
    elsewhere.matches.path = Some("/never/asked/for".parse().unwrap());
    let proxy = Setup::rules([elsewhere]).start(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client
        .try_send(
            [message, NEXT.as_bytes(), b"GET /last HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"]
                .concat(),
        )
        .await;
    let mut statuses = Vec::new();
    while let Some(response) = client.response_to("GET").await {
        statuses.push(response.status);
    }
    Outcome { statuses, seen: origin.seen() }
}

/// Refused with one of these statuses (0: closed without an answer), nothing after it answered, and nothing
/// complete at the upstream.
async fn refused(name: &str, message: impl AsRef<[u8]>, allowed: &[u16]) {
    let outcome = send(message.as_ref()).await;
    let status = outcome.statuses.first().copied().unwrap_or(0);
    assert!(allowed.contains(&status), "{name}: {outcome:#?}");
    assert!(outcome.statuses.len() <= 1, "{name}: the connection went on: {outcome:#?}");
    assert!(outcome.seen.iter().all(|seen| !seen.complete), "{name}: {outcome:#?}");
}

/// Arrives as one request with this body. `goes_on`: whether the requests behind it are answered.
async fn arrives(name: &str, message: impl AsRef<[u8]>, body: &str, goes_on: bool) -> Seen {
    let outcome = send(message.as_ref()).await;
    let (requests, statuses) = if goes_on { (3, vec![200; 3]) } else { (1, vec![200]) };
    assert_eq!(outcome.statuses, statuses, "{name}: {outcome:#?}");
    assert_eq!(outcome.seen.len(), requests, "{name}: {outcome:#?}");
    let seen = outcome.seen.into_iter().next().unwrap();
    assert_eq!(String::from_utf8_lossy(&seen.body), body, "{name}");
    seen
}

fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: test\r\n{fields}\r\n\r\n{body}")
}

#[tokio::test]
async fn a_length_beside_a_transfer_coding_is_cleaned_and_ends_the_connection() {
    for (name, fields) in [
        ("length first", "content-length: 3\r\ntransfer-encoding: chunked"),
        ("coding first", "transfer-encoding: chunked\r\ncontent-length: 3"),
        ("one length twice", "content-length: 3\r\ntransfer-encoding: chunked\r\ncontent-length: 3"),
    ] {
        let seen = arrives(name, post(fields, "5\r\nhello\r\n0\r\n\r\n"), "hello", false).await;
        assert_eq!(seen.field("transfer-encoding"), Some("chunked"), "{name}");
        assert_eq!(seen.fields("content-length"), [""; 0], "{name}");
    }
    let fields = "content-length: 3\r\ntransfer-encoding: chunked\r\ncontent-length: 7";
    refused("two lengths", post(fields, "5\r\nhello\r\n0\r\n\r\n"), &[400]).await;
}

#[tokio::test]
async fn transfer_codings_other_than_chunked_are_refused() {
    let body = "5\r\nhello\r\n0\r\n\r\n";
    for (coding, allowed) in [
        ("gzip, chunked", &[501][..]),
        ("identity, chunked", &[501]),
        ("chunked, chunked", &[400]),
        ("chunked, identity", &[400, 501]),
        ("gzip", &[400, 501]),
        ("identity", &[400, 501]),
        ("xchunked", &[400, 501]),
        ("chunkedx", &[400, 501]),
        ("chunked;q=1", &[400, 501]),
        ("\"chunked\"", &[400, 501]),
        ("chun ked", &[400, 501]),
        ("\u{b}chunked", &[400, 501]),
        (",chunked", &[400, 501]),
        ("", &[400, 501]),
    ] {
        refused(coding, post(&format!("transfer-encoding: {coding}"), body), allowed).await;
    }
    refused("two lines", post("transfer-encoding: chunked\r\ntransfer-encoding: chunked", body), &[400])
        .await;
    refused("two lines", post("transfer-encoding: gzip\r\ntransfer-encoding: chunked", body), &[501]).await;
    refused("two lines", post("transfer-encoding: chunked\r\ntransfer-encoding: gzip", body), &[400, 501])
        .await;
    refused(
        "HTTP/1.0",
        "POST / HTTP/1.0\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        &[400],
    )
    .await;
    for (name, coding) in [("case", "cHuNkEd"), ("spaces", " \t chunked \t ")] {
        arrives(name, post(&format!("transfer-encoding:{coding}"), body), "hello", true).await;
    }
}

#[tokio::test]
async fn lengths_must_be_one_number() {
    for length in [
        "5, 6",
        "5,5",
        "+5",
        "-0",
        "-5",
        "0x5",
        "5e0",
        "5.0",
        "",
        "five",
        "5 5",
        "\"5\"",
        "18446744073709551616",
        "99999999999999999999999",
    ] {
        refused(length, post(&format!("content-length: {length}"), "hello"), &[400]).await;
    }
    refused("differing", post("content-length: 5\r\ncontent-length: 6", "hello"), &[400]).await;
    for (name, fields) in
        [("equal", "content-length: 5\r\ncontent-length: 5"), ("leading zeros", "content-length: 0005")]
    {
        let seen = arrives(name, post(fields, "hello"), "hello", true).await;
        assert_eq!(seen.field("content-length"), Some("5"), "{name}");
    }
}

#[tokio::test]
async fn heads_follow_the_grammar() {
    for (name, message) in [
        ("bare carriage return", "GET / HTTP/1.1\r\nhost: test\r\nx-a: 1\rx-b: 2\r\n\r\n"),
        ("NUL in a value", "GET / HTTP/1.1\r\nhost: test\r\nx-a: 1\0\r\n\r\n"),
        ("NUL in a name", "GET / HTTP/1.1\r\nhost: test\r\nx\0a: 1\r\n\r\n"),
        ("folded field", "GET / HTTP/1.1\r\nhost: test\r\nx-a: 1\r\n 2\r\n\r\n"),
        (
            "folded transfer coding",
            "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        ),
        ("space before the colon", "GET / HTTP/1.1\r\nhost : test\r\n\r\n"),
        (
            "space before the colon of a length",
            "POST / HTTP/1.1\r\nhost: test\r\ncontent-length : 5\r\n\r\nhello",
        ),
        ("space before the first field", "GET / HTTP/1.1\r\n host: test\r\nx-a: 1\r\n\r\n"),
        ("no colon", "GET / HTTP/1.1\r\nhost: test\r\nx-a\r\n\r\n"),
        ("no name", "GET / HTTP/1.1\r\nhost: test\r\n: 1\r\n\r\n"),
        ("space in a name", "GET / HTTP/1.1\r\nhost: test\r\nx a: 1\r\n\r\n"),
        ("byte above 127 in a name", "GET / HTTP/1.1\r\nhost: test\r\nx\u{e4}: 1\r\n\r\n"),
        ("no version", "GET /\r\nhost: test\r\n\r\n"),
        ("version 0.9", "GET / HTTP/0.9\r\nhost: test\r\n\r\n"),
        ("version 1.2", "GET / HTTP/1.2\r\nhost: test\r\n\r\n"),
        ("version 2.0", "GET / HTTP/2.0\r\nhost: test\r\n\r\n"),
        ("version in lower case", "GET / http/1.1\r\nhost: test\r\n\r\n"),
        ("two spaces", "GET  / HTTP/1.1\r\nhost: test\r\n\r\n"),
        ("a tab", "GET\t/ HTTP/1.1\r\nhost: test\r\n\r\n"),
        ("something behind the version", "GET / HTTP/1.1 x\r\nhost: test\r\n\r\n"),
        ("space in the target", "GET /a b HTTP/1.1\r\nhost: test\r\n\r\n"),
        ("bad method", "GE(T / HTTP/1.1\r\nhost: test\r\n\r\n"),
        ("method with a colon", "GET: / HTTP/1.1\r\nhost: test\r\n\r\n"),
        ("nothing of it", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03"),
        (
            "a PROXY header nobody asked for",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nhost: test\r\n\r\n",
        ),
    ] {
        refused(name, message, &[400, 0]).await;
    }
    // A line that ends in a bare line feed is one that a recipient may accept; it is written anew.
    let seen = arrives("bare line feeds", "GET / HTTP/1.1\nhost: test\nx-a: 1\n\n", "", true).await;
    assert_eq!((seen.field("x-a"), seen.head.contains("1\r\n")), (Some("1"), true));
    arrives("empty lines in front", "\r\n\r\nGET / HTTP/1.1\r\nhost: test\r\n\r\n", "", true).await;
}

/// Whoever asked with HEAD takes what is behind a head for the next answer.
#[tokio::test]
async fn a_head_that_is_refused_gets_no_body() {
    let origin = Origin::hello().await;
    let proxy = Proxy::plain(origin.address);
    for message in ["HEAD / HTTP/1.1x\r\nhost: test\r\n\r\n", "\r\nHEAD / HTTP/1.1\r\nhost : test\r\n\r\n"] {
        let mut client = Client::connect(proxy.address).await;
        client.send(message).await;
        let refused = client.response_to("HEAD").await.unwrap();
        assert_eq!((refused.status, refused.field("connection")), (400, Some("close")));
        assert_eq!(client.rest().await, b"", "{message}");
    }
}

#[tokio::test]
async fn chunks_follow_the_grammar() {
    for (name, body) in [
        ("bare line feed after the size", "5\nhello\r\n0\r\n\r\n"),
        ("prefix of a number", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("minus", "-5\r\nhello\r\n0\r\n\r\n"),
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("no number", "g\r\nhello\r\n0\r\n\r\n"),
        ("too large", "10000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("no line end behind the data", "5\r\nhello0\r\n\r\n"),
        ("more data than said", "3\r\nhello\r\n0\r\n\r\n"),
        ("line feed behind the data", "5\r\nhello\n0\r\n\r\n"),
        ("bare line feed in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
    ] {
        refused(name, post("transfer-encoding: chunked", body), &[400, 0]).await;
    }
    let endless = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(1 << 20));
    refused("a megabyte of extension", post("transfer-encoding: chunked", &endless), &[400, 0]).await;
    let trailers = format!("5\r\nhello\r\n0\r\nx: {}\r\n\r\n", "x".repeat(1 << 17));
    refused("128 KiB of trailers", post("transfer-encoding: chunked", &trailers), &[400, 0]).await;
    for (name, body) in [
        ("leading zeros", "0000005\r\nhello\r\n000\r\n\r\n"),
        ("extension", "5;a=\"b\";c\r\nhello\r\n0;d\r\n\r\n"),
        ("trailers", "5\r\nhello\r\n0\r\ncontent-length: 3\r\nhost: evil\r\n\r\n"),
    ] {
        let seen = arrives(name, post("transfer-encoding: chunked", body), "hello", true).await;
        assert_eq!(seen.field("host"), Some("test"), "{name}");
    }
}

#[tokio::test]
async fn a_broken_body_never_becomes_a_complete_request() {
    let origin = Origin::hello().await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client.send(post("transfer-encoding: chunked", "5\r\nhello\r\n")).await;
    // Now the upstream has the head; then comes nonsense.
    client.send("zz\r\n").await;
    let response = client.response().await;
    assert_eq!((response.status, response.field("connection")), (400, Some("close")));
    let record = origin.until("the upstream's connection to be closed", |record| record.open == 0).await;
    assert!(record.seen.iter().all(|seen| !seen.complete));
}

#[tokio::test]
async fn there_is_exactly_one_host() {
    for (name, head) in [
        ("none", "GET / HTTP/1.1\r\n"),
        ("two", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n"),
        ("two equal", "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n"),
        ("a list", "GET / HTTP/1.1\r\nhost: a, b\r\n"),
        ("empty", "GET / HTTP/1.1\r\nhost:\r\n"),
        ("a path", "GET / HTTP/1.1\r\nhost: a/b\r\n"),
        ("a user", "GET / HTTP/1.1\r\nhost: user@a\r\n"),
        ("a space", "GET / HTTP/1.1\r\nhost: a b\r\n"),
        ("a bad port", "GET / HTTP/1.1\r\nhost: a:80a\r\n"),
        ("a user in the target", "GET http://user:pass@a/ HTTP/1.1\r\nhost: a\r\n"),
        ("two beside an absolute target", "GET http://a/ HTTP/1.1\r\nhost: a\r\nhost: b\r\n"),
    ] {
        refused(name, format!("{head}\r\n"), &[400]).await;
    }
    for (target, line, host) in [
        ("http://Other.example:81/path?q", "GET /path?q HTTP/1.1", "Other.example:81"),
        ("https://other", "GET / HTTP/1.1", "other"),
        ("http://[::1]/x", "GET /x HTTP/1.1", "[::1]"),
    ] {
        let seen = arrives(target, format!("GET {target} HTTP/1.1\r\nhost: test\r\n\r\n"), "", true).await;
        assert_eq!((seen.line(), seen.field("host")), (line, Some(host)));
        assert_eq!(seen.field("x-forwarded-host"), Some(host));
    }
}

#[tokio::test]
async fn targets_and_methods() {
    for (name, line, allowed) in [
        ("no slash", "GET admin", &[400][..]),
        ("authority", "GET admin:80", &[400]),
        ("asterisk", "GET *", &[400]),
        ("other scheme", "GET ftp://a/", &[400]),
        ("scheme without authority", "GET http:/a", &[400]),
        ("CONNECT", "CONNECT a:443", &[405]),
        ("TRACE", "TRACE /", &[405]),
    ] {
        refused(name, format!("{line} HTTP/1.1\r\nhost: test\r\n\r\n"), allowed).await;
    }
    let seen = arrives("OPTIONS *", "OPTIONS * HTTP/1.1\r\nhost: test\r\n\r\n", "", true).await;
    assert_eq!(seen.line(), "OPTIONS * HTTP/1.1");
    let seen = arrives("two slashes", "GET //evil.example/x HTTP/1.1\r\nhost: test\r\n\r\n", "", true).await;
    assert_eq!((seen.line(), seen.field("host")), ("GET /evil.example/x HTTP/1.1", Some("test")));
    let seen = arrives("at sign", "GET /@evil HTTP/1.1\r\nhost: test\r\n\r\n", "", true).await;
    assert_eq!(seen.line(), "GET /@evil HTTP/1.1");
    arrives("unknown method", "PROPFIND / HTTP/1.1\r\nhost: test\r\n\r\n", "", true).await;
}

#[tokio::test]
async fn heads_have_a_size() {
    let fields = |count: usize| (0..count).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    refused("101 fields", format!("GET / HTTP/1.1\r\nhost: test\r\n{}\r\n", fields(100)), &[431]).await;
    arrives("100 fields", format!("GET / HTTP/1.1\r\nhost: test\r\n{}\r\n", fields(99)), "", true).await;
    let big = |size: usize| format!("GET / HTTP/1.1\r\nhost: test\r\nx-a: {}\r\n\r\n", "x".repeat(size));
    refused("a field of 64 KiB", big(64 << 10), &[431]).await;
    refused("a field of 1 MB", big(1 << 20), &[431]).await;
    arrives("a field of 60 KiB", big(60 << 10), "", true).await;
    let long = |size: usize| format!("GET /{} HTTP/1.1\r\nhost: test\r\n\r\n", "x".repeat(size));
    refused("a target of 70 KB", long(70_000), &[414]).await;
    refused("a target of 1 MB", long(1 << 20), &[414, 431]).await;
    refused("a megabyte of empty lines", "\r\n".repeat(1 << 19), &[400, 431, 0]).await;
    refused("a megabyte of method", "G".repeat(1 << 20), &[400, 431, 0]).await;
}

#[tokio::test]
async fn paths_are_left_alone_where_no_limit_looks_at_them() {
    for path in ["/a%2fb", "//double///slash", "/a/./b/../c", "/%7Euser;v=1/"] {
        let origin = Origin::hello().await;
        let proxy = Proxy::plain(origin.address);
        assert_eq!(raw_client::get(proxy.address, path).await.status, 200);
        assert_eq!(origin.only().line(), format!("GET {path} HTTP/1.1"));
    }
}

#[tokio::test]
async fn ambiguous_paths_are_400_and_others_are_forwarded_as_they_are_matched() {
    for path in ["/a%2fb", "/a%5cb", "/a\\b", "/%00", "/%c0%af", "/%"] {
        let outcome = send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await;
        assert_eq!(outcome.statuses[0], 400, "{path}: {outcome:#?}");
        assert!(
            outcome.seen.iter().all(|seen| seen.line().contains("/next") || seen.line().contains("/last")),
            "{path}"
        );
    }
    for (path, normal) in [
        ("/a/./b/../c", "/a/c"),
        ("/%2e%2e/admin", "/admin"),
        ("/a/..;x=1/admin", "/admin"),
        ("//double///slash", "/double/slash"),
        ("/%7euser?q=%2F/../x", "/~user?q=%2F/../x"),
    ] {
        let seen = arrives(path, format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"), "", true).await;
        assert_eq!(seen.line(), format!("GET {normal} HTTP/1.1"));
    }
}
