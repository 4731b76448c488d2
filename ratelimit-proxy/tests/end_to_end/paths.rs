//! Every way to write a path that some upstream would read as the limited one counts as the limited one, or is
//! 400. What the upstream gets is what was matched.

use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::raw_client::{Client, Response};
use ratelimit_proxy::path::NormalPath;

const YAML: &str = "
limits:
  - {name: login, match: {path: /a/login}, rate: 1000/day}
  - {name: tree, match: {path: '/v1/{resource}/**'}, key: [path.resource, path], rate: 1000/day}
  - {name: rest, match: {not: {path: /a/login}}, key: path, rate: 1000/day}
";

/// Sends bytes as a target; `None` if the connection was closed without an answer.
async fn ask(proxy: &Proxy, target: &[u8]) -> Option<Response> {
    let mut client = Client::connect(proxy.address).await;
    client.send([b"GET ", target, b" HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"].concat()).await;
    client.response_to("GET").await
}

/// The limits that counted a request.
fn counted(response: &Response) -> Vec<String> {
    let policy = response.field("ratelimit-policy").unwrap_or_default();
    policy.split(", ").filter_map(|item| Some(item.split('"').nth(1)?.to_owned())).collect()
}

/// Row 36 and section 5.4 of the faults, "`//`, `/./`, `/%2e%2e/`, `/a/..;x/b`, trailing `/` and `;v=1`": spellings
/// of one path are counted as that path, and the upstream gets a spelling that means the same to everyone.
#[tokio::test]
async fn spellings_of_a_path_count_as_that_path() {
    let origin = Origin::hello().await;
    let proxy = Proxy::from_yaml(YAML, origin.address);
    for (spelling, forwarded) in [
        ("/a/login", "/a/login"),
        // Slashes.
        ("//a/login", "/a/login"),
        ("/a//login", "/a/login"),
        ("///a////login", "/a/login"),
        ("/a/login/", "/a/login/"),
        ("/a/login//", "/a/login/"),
        // Dot segments, raw and escaped, in either case.
        ("/./a/login", "/a/login"),
        ("/a/./login", "/a/login"),
        ("/a/login/.", "/a/login/"),
        ("/a/b/../login", "/a/login"),
        ("/../a/login", "/a/login"),
        ("/../../../a/login", "/a/login"),
        ("/a/login/x/..", "/a/login/"),
        ("/a/%2e/login", "/a/login"),
        ("/a/%2E/login", "/a/login"),
        ("/x/%2e%2e/a/login", "/a/login"),
        ("/x/%2E%2e/a/login", "/a/login"),
        ("/x/.%2e/a/login", "/a/login"),
        ("/x/%2E./a/login", "/a/login"),
        ("/a//../a/login", "/a/login"),
        ("/x//../../a/login", "/a/login"),
        // Parameters, on dot segments too (CVE-2026-73553).
        ("/a/login;v=1", "/a/login;v=1"),
        ("/a;v=1/login;w", "/a;v=1/login;w"),
        ("/a/login;v=1/", "/a/login;v=1/"),
        ("/a/login;", "/a/login;"),
        ("/a/x/..;x=1/login", "/a/login"),
        ("/a/x/..;/login", "/a/login"),
        ("/a/x/%2e%2e;x/login", "/a/login"),
        ("/a/.;x/login", "/a/login"),
        ("/a/;x/login", "/a/login"),
        // Escapes of characters that need none.
        ("/%61/%6cogin", "/a/login"),
        ("/a/%6C%6f%67%69%6E", "/a/login"),
        ("/a/x%3Bv=1/../login", "/a/login"),
        // Absolute targets.
        ("http://test/a/login", "/a/login"),
        ("http://test//a/./login", "/a/login"),
        // What stands in the query has no part in it, and a fragment is not sent on.
        ("/a/login?x=/../y", "/a/login?x=/../y"),
        ("/a/login/?", "/a/login/?"),
    ] {
        let before = origin.seen().len();
        let Some(response) = ask(&proxy, spelling.as_bytes()).await else { panic!("{spelling}: closed") };
        assert_eq!(response.status, 200, "{spelling}: {}", response.text());
        assert_eq!(counted(&response), ["login"], "{spelling}");
        let seen = origin.seen();
        assert_eq!(seen.len(), before + 1, "{spelling}");
        assert_eq!(seen[before].line(), format!("GET {forwarded} HTTP/1.1"), "{spelling}");
    }
}

/// Row 36 and section 5.4 of the faults, "`%2f`, `%5c`, `\`, `%00`" and bad UTF-8: 400, and the upstream hears
/// nothing; the connection goes on, since it is plain where the request ends.
#[tokio::test]
async fn what_upstreams_read_differently_is_400() {
    let origin = Origin::hello().await;
    let proxy = Proxy::from_yaml(YAML, origin.address);
    for target in [
        &b"/a%2flogin"[..],
        b"/a%2Flogin",
        b"/a/login%2f",
        b"/a/x%2f..%2flogin",
        b"/x/..%2fa/login",
        b"/%2e%2e%2fa/login",
        b"/a%5clogin",
        b"/a%5Clogin",
        b"/x/..%5ca/login",
        b"/a\\login",
        b"/x\\..\\a/login",
        b"/a/login%00",
        b"/a/%00login",
        b"/a/login%",
        b"/a/login%2",
        b"/a/login%zz",
        b"/a/%u006cogin",
        // Overlong forms of `/`, `.` and NUL, a surrogate, what is no UTF-8 at all.
        b"/a%c0%aflogin",
        b"/a/%c0%ae%c0%ae/login",
        b"/a/login%c0%80",
        b"/a%e0%80%aflogin",
        b"/%ed%a0%80",
        b"/%ff",
        b"/%c3",
        // Some decode first and take parameters off then.
        b"/x/..%3bx/a/login",
        b"/x/..%3B/a/login",
        b"/x/%2e%2e%3b/a/login",
        b"/a/.%3b/login",
        b"http://test/a%2flogin",
    ] {
        let shown = String::from_utf8_lossy(target);
        let mut client = Client::connect(proxy.address).await;
        client.send([b"GET ", target, b" HTTP/1.1\r\nhost: test\r\n\r\n"].concat()).await;
        let response = client.response().await;
        assert_eq!(response.status, 400, "{shown}: {}", response.head);
        assert_eq!(response.fields("ratelimit"), [""; 0], "{shown}");
        assert_eq!(origin.seen().len(), 0, "{shown}");
    }
    // Raw bytes above 127 and control characters: refused, or forwarded as they were matched.
    for target in [
        &b"/a/log\xc3\xafn"[..],
        b"/a/log\xefn",
        b"/a/login\x7f",
        b"/a/login\x01",
        b"/a/login\t",
        b"/a/lo\0gin",
    ] {
        let before = origin.seen().len();
        let status = ask(&proxy, target).await.map_or(400, |response| response.status);
        let seen = origin.seen();
        if status == 400 {
            assert_eq!(seen.len(), before, "{target:?}");
        } else {
            assert_eq!((status, seen.len()), (200, before + 1), "{target:?}");
            let path = seen[before].line().split(' ').nth(1).unwrap();
            assert_eq!(NormalPath::parse(path).unwrap().as_str(), path, "{target:?}");
        }
    }
}

/// Row 36, "`/A` vs `/a`": another path, with a bucket of its own; so is what only looks like a slash, a dot or the
/// end of a segment.
#[tokio::test]
async fn other_paths_are_other_paths() {
    let origin = Origin::hello().await;
    let proxy = Proxy::from_yaml(YAML, origin.address);
    for (target, forwarded) in [
        ("/A/login", "/A/login"),
        ("/a/LOGIN", "/a/LOGIN"),
        ("/a/login.", "/a/login."),
        ("/a/login..", "/a/login.."),
        ("/a/.../login", "/a/.../login"),
        ("/a/login%20", "/a/login%20"),
        ("/a/login%3F", "/a/login%3F"),
        ("/a/login%3fx", "/a/login%3Fx"),
        ("/a/login%23", "/a/login%23"),
        ("/a/login%252f", "/a/login%252f"),
        ("/a/%252e%252e/login", "/a/%252e%252e/login"),
        ("/a/login%3Bv=1", "/a/login%3Bv=1"),
        ("/a/login,v=1", "/a/login,v=1"),
        ("/a/login/x", "/a/login/x"),
        ("/b/a/login", "/b/a/login"),
        ("/a/login/../login2", "/a/login2"),
        ("/a/%EF%BC%8Flogin", "/a/%EF%BC%8Flogin"),
        ("/a/%e2%80%ae", "/a/%E2%80%AE"),
        ("/", "/"),
        ("/..", "/"),
        ("/;x", "/"),
        ("http://test", "/"),
    ] {
        let before = origin.seen().len();
        let Some(response) = ask(&proxy, target.as_bytes()).await else { panic!("{target}: closed") };
        assert_eq!((response.status, counted(&response)), (200, vec!["rest".to_owned()]), "{target}");
        assert_eq!(origin.seen()[before].line(), format!("GET {forwarded} HTTP/1.1"), "{target}");
    }
}

/// Row 36 for keys: spellings of one path are one bucket, of `path` as of a capture.
#[tokio::test]
async fn spellings_share_a_bucket() {
    let origin = Origin::hello().await;
    let yaml = "
limits:
  - {name: path, match: {path: /p/**}, key: path, rate: 1/day}
  - {name: capture, match: {path: '/c/{x}/**'}, key: path.x, rate: 1/day}
";
    let proxy = Proxy::from_yaml(yaml, origin.address);
    for (first, others) in [
        ("/p/a%2cb", &["/p/a%2Cb", "/p/a%2cb/", "//p/./a%2Cb;x=1", "/p/q/..;/a%2cb"][..]),
        ("/p/~x", &["/p/%7ex", "/p/%7Ex;", "/p/%7E%78"]),
        ("/p", &["/p/", "/p;x/", "//p//", "/%70"]),
        ("/p/%C3%A9", &["/p/%c3%a9", "/p/%c3%A9/."]),
        ("/c/a", &["/c/%61", "/c/a/more", "/c/a;v=1/more/..", "//c//a/", "/c/./a"]),
        ("/c/%C3%A9", &["/c/%c3%a9"]),
        ("/c/a%3Bb", &["/c/a%3bb"]),
        // Other buckets.
        ("/p/a,b", &["/p/a,b/"]),
        ("/p/%7E%41", &["/p/~A"]),
        ("/p/~a", &[]),
        ("/p/e%CC%81", &[]),
        ("/c/A", &[]),
        ("/c/b", &["/c/b;"]),
        ("/c/a%253Bb", &[]),
    ] {
        assert_eq!(ask(&proxy, first.as_bytes()).await.unwrap().status, 200, "{first}");
        for other in others.iter().chain([&first]) {
            assert_eq!(ask(&proxy, other.as_bytes()).await.unwrap().status, 429, "{other} is {first}");
        }
    }
}

/// What starts a pattern is matched as paths are: written with escapes, it means the same paths.
#[tokio::test]
async fn patterns_are_read_as_paths_are() {
    let origin = Origin::hello().await;
    let yaml = "limits: [{name: one, match: {path: '/%7Euser/caf\u{e9}/a%2cb/**'}, rate: 1/day}]";
    let proxy = Proxy::from_yaml(yaml, origin.address);
    let ask = async |target: &str| ask(&proxy, target.as_bytes()).await.unwrap().status;
    assert_eq!(ask("/~user/caf%C3%A9/a%2Cb").await, 200);
    assert_eq!(ask("/%7euser/c%61f%c3%a9/a%2cb/x").await, 429);
    assert_eq!(ask("/~user/cafe/a%2cb").await, 200);
}
