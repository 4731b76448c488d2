//! What limits count by, at what cost, for which requests: the language of limits from the configuration's text
//! to the answers on a socket.
//!
//! Quotas are per day, so that nothing comes back while a test runs: the first request of a bucket is allowed, the
//! next is denied.

use std::fmt::Write as _;

use crate::support::origin::{Origin, Reply};
use crate::support::program::Program;
use crate::support::proxy::Proxy;
use crate::support::raw_client::{Client, ask, expect, get};

async fn up(yaml: &str) -> (Origin, Proxy) {
    let origin = Origin::hello().await;
    let proxy = Proxy::from_yaml(yaml, origin.address);
    (origin, proxy)
}

/// With that configuration, these requests get these answers, one after the other.
async fn check(yaml: &str, steps: &[(&str, u16)]) {
    let (origin, proxy) = up(yaml).await;
    expect(proxy.address, steps).await;
    let passed = steps.iter().filter(|(_, status)| *status == 200).count();
    assert_eq!(origin.seen().len(), passed, "what was not allowed must not reach the upstream");
}

/// One request a day for each value of a key.
async fn check_key(key: &str, steps: &[(&str, u16)]) {
    check(&format!("limits: [{{name: one, key: {key}, rate: 1/day}}]"), steps).await;
}

/// Each source of a value, by requests that share a bucket and requests that do not.
#[tokio::test]
async fn each_source_has_its_buckets() {
    check_key("client.ip", &[("GET /", 200), ("GET /other", 429)]).await;
    check_key(
        "header.X-Api-Key",
        &[
            ("GET /\nx-api-key: a", 200),
            ("POST /other\nX-API-KEY:   a  ", 429),
            ("GET /\nx-api-key: b", 200),
            ("GET /\nx-api-key: A", 200),
            ("GET /\nx-api-key:", 200),
            ("GET /", 200),
            ("GET /\nx-other: 1", 429),
            // Several lines that differ are nobody's, and one line with both is a value like any other.
            ("GET /\nx-api-key: c\nx-api-key: d", 400),
            ("GET /\nx-api-key: c, d", 200),
        ],
    )
    .await;
    check_key(
        "query.user",
        &[
            ("GET /?user=a", 200),
            ("GET /x?page=1&user=a", 429),
            ("GET /?us%65r=%61&user=a", 429),
            ("GET /?us%65r=%61&user=b", 400),
            ("GET /?user=a+b", 200),
            ("GET /?user=a%20b", 429),
            ("GET /?user=a%2Bb", 200),
            ("GET /?user=", 200),
            ("GET /?user", 429),
            ("GET /?User=a", 200),
            ("GET /", 429),
        ],
    )
    .await;
    check_key(
        "cookie.sid",
        &[
            ("GET /\ncookie: a=b; sid=1", 200),
            ("GET /\ncookie: sid=\"1\"; c=d", 429),
            ("GET /\ncookie: a=b\ncookie: sid=1", 429),
            ("GET /\ncookie: sid=3; sid=1", 400),
            ("GET /\ncookie: sid=3\ncookie: sid=1", 400),
            ("GET /\ncookie: sid=2", 200),
            ("GET /\ncookie: xsid=1; SID=1", 200),
            ("GET /", 429),
        ],
    )
    .await;
    check_key(
        "method",
        &[
            ("GET /", 200),
            ("GET /x", 429),
            ("HEAD /", 200),
            ("PURGE /", 200),
            // Some upstreams read it as GET.
            ("get /", 429),
        ],
    )
    .await;
    check_key(
        "host",
        &[
            ("GET /\nhost: a.example", 200),
            ("GET /\nhost: A.Example:8080", 429),
            ("GET /\nhost: a.example.", 429),
            ("GET http://a.example/\nhost: b.example", 429),
            ("GET /\nhost: b.example", 200),
            ("GET /\nhost: [::1]:80", 200),
        ],
    )
    .await;
    check_key("path", &[("GET /a", 200), ("POST /a/?x", 429), ("GET /b", 200), ("GET /A", 200)]).await;
    check("limits: [{name: one, rate: 1/day}]", &[("GET /", 200), ("POST /x\nx-api-key: b", 429)]).await;
}

#[tokio::test]
async fn a_capture_is_the_decoded_segment() {
    check(
        "limits: [{name: one, match: {path: '/v1/*/{user}/**'}, key: path.user, rate: 1/day}]",
        &[
            ("GET /v1/x/ann", 200),
            ("GET /v1/y/ann/more?q", 429),
            ("GET /v1/y/%61nn", 429),
            ("GET /v1/y/ann;v=1/", 429),
            ("GET /v1/x/bob", 200),
            ("GET /v1/x/b%3Fb", 200),
            ("GET /v1/x/b%3fb/z", 429),
            // Not the pattern's: no second segment, or another first one.
            ("GET /v1/x", 200),
            ("GET /v1/x", 200),
            ("GET /v2/x/ann", 200),
        ],
    )
    .await;
}

/// Row 120, "key component injection (`a|b`, `{}`, CRLF, NUL, unicode normal forms, case)", on the wire; the
/// property over all values is in `tests/policy.rs`.
#[tokio::test]
async fn different_tuples_never_meet() {
    check_key(
        "[header.x-a, query.b, path]",
        &[
            ("GET /\nx-a: 1", 200),
            ("GET /\nx-a: 1", 429),
            ("GET /?b=1", 200),
            ("GET /?b=1\nx-a: 1", 200),
            ("GET /?b=1\nx-a: 1", 429),
            ("GET /?b=\nx-a: 1", 200),
            ("GET /?b=1\nx-a:", 200),
            ("GET /?b=bc\nx-a: a", 200),
            ("GET /?b=c\nx-a: ab", 200),
            ("GET /?b=\nx-a: abc", 200),
            ("GET /?b=b%7Cc\nx-a: a", 200),
            ("GET /?b=c\nx-a: a|b", 200),
            ("GET /?b={c}\nx-a: a", 200),
            ("GET /?b=c\nx-a: {a}", 200),
            ("GET /?b=%0d%0ax\nx-a: a", 200),
            ("GET /?b=%0ax\nx-a: a", 200),
            ("GET /?b=%00\nx-a: a", 200),
            ("GET /?b=\nx-a: a", 200),
            ("GET /?b=%C3%A9\nx-a: a", 200),
            ("GET /?b=e%CC%81\nx-a: a", 200),
            ("GET /?b=%FF\nx-a: a", 200),
            ("GET /?b=%FF\nx-a: a", 429),
        ],
    )
    .await;
}

/// Where the value came from is part of the key: a header can't take part in the bucket of an address.
#[tokio::test]
async fn first_takes_what_is_there_and_keeps_its_origin() {
    check_key(
        "{first: [header.x-api-key, query.key, client.ip]}",
        &[
            ("GET /", 200),
            ("GET /", 429),
            ("GET /\nx-api-key: 127.0.0.1", 200),
            ("GET /?key=127.0.0.1", 200),
            ("GET /?key=a\nx-api-key: 127.0.0.1", 429),
            ("GET /?key=127.0.0.1", 429),
            ("GET /\nx-api-key:", 200),
        ],
    )
    .await;
    check_key(
        "[{first: [header.a, header.b]}, {first: [header.b, header.a]}]",
        &[
            ("GET /\na: 1", 200),
            ("GET /\nb: 1", 200),
            ("GET /\na: 1\nb: 1", 200),
            ("GET /", 200),
            ("GET /", 429),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_missing_value_shares_skips_or_denies() {
    let limit = |missing: &str| {
        format!("limits: [{{name: one, key: [header.x-api-key, query.u], rate: 1/day{missing}}}]")
    };
    for share in ["", ", missing: share"] {
        let steps = [
            ("GET /", 200),
            ("GET /", 429),
            ("GET /\nx-api-key: a", 200),
            ("GET /\nx-api-key: a", 429),
            ("GET /?u=a", 200),
        ];
        check(&limit(share), &steps).await;
    }
    let steps = [("GET /", 200), ("GET /", 200), ("GET /\nx-api-key: a", 200), ("GET /\nx-api-key: a", 200)];
    check(&limit(", missing: skip"), &steps).await;
    check(
        &limit(", missing: deny"),
        &[
            ("GET /", 429),
            ("GET /\nx-api-key: a", 429),
            ("GET /?u=1\nx-api-key: a", 200),
            ("GET /?u=1\nx-api-key: a", 429),
        ],
    )
    .await;
    let (_origin, proxy) = up(&limit(", missing: deny")).await;
    let denied = get(proxy.address, "/").await;
    assert_eq!(denied.field("retry-after"), Some("86400"));
    assert_eq!(denied.field("ratelimit"), Some("\"one\";r=0;t=86400"));
    assert!(denied.text().contains(r#""violated-policies":["one"]"#), "{}", denied.text());
}

#[tokio::test]
async fn overrides_change_the_quota_of_some_keys() {
    check(
        "
limits:
  - name: plan
    key: [header.x-api-key, path]
    rate: 1/day
    overrides:
      - {key: [gold, /vip], rate: 3/day}
      - {key: [gold, '*'], rate: 2/day, burst: 2}
      - {key: [gold, /vip], deny: true}
      - {key: ['in-*', '*'], unlimited: true}
      - {key: [stolen, '*'], deny: true}
      - {key: ['*', /closed], deny: true}
",
        &[
            ("GET /\nx-api-key: tin", 200),
            ("GET /\nx-api-key: tin", 429),
            ("GET /\nx-api-key: gold", 200),
            ("GET /\nx-api-key: gold", 200),
            ("GET /\nx-api-key: gold", 429),
            // The first in the file wins, here and for the closed path.
            ("GET /vip\nx-api-key: gold", 200),
            ("GET /vip\nx-api-key: gold", 200),
            ("GET /vip\nx-api-key: gold", 200),
            ("GET /vip\nx-api-key: gold", 429),
            ("GET /\nx-api-key: in-1", 200),
            ("GET /\nx-api-key: in-1", 200),
            ("GET /closed\nx-api-key: in-1", 200),
            ("GET /\nx-api-key: stolen", 429),
            ("GET /closed\nx-api-key: tin", 429),
            // `*` fits what is missing too.
            ("GET /closed", 429),
            ("GET /", 200),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_override_of_an_address_fits_the_address_alone() {
    check(
        "
limits:
  - name: one
    key: {first: [header.x-api-key, client.ip]}
    rate: 1/day
    overrides:
      - {key: '127.0.0.0/8', rate: 2/day}
",
        &[
            ("GET /\nx-api-key: 127.0.0.1", 200),
            ("GET /\nx-api-key: 127.0.0.1", 429),
            ("GET /\nx-api-key: 127.0.0.0/8", 200),
            ("GET /\nx-api-key: 127.0.0.0/8", 429),
            ("GET /", 200),
            ("GET /", 200),
            ("GET /", 429),
        ],
    )
    .await;
}

#[tokio::test]
async fn thousands_of_overrides_are_found() {
    let mut yaml =
        String::from("limits:\n  - name: one\n    key: header.k\n    rate: 1/day\n    overrides:\n");
    for number in 0..5000 {
        writeln!(yaml, "      - {{key: key-{number}, {}}}", ["unlimited: true", "deny: true"][number % 2])
            .unwrap();
    }
    let (_origin, proxy) = up(&yaml).await;
    let mut client = Client::connect(proxy.address).await;
    for number in [0, 1, 2498, 2499, 4998, 4999, 5000] {
        for again in [false, true] {
            client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nk: key-{number}\r\n\r\n")).await;
            let expected = match number {
                5000 if again => 429,
                5000 => 200,
                even if even % 2 == 0 => 200,
                _ => 429,
            };
            assert_eq!(client.response().await.status, expected, "key-{number}");
        }
    }
}

#[tokio::test]
async fn shadow_is_counted_and_off_is_nothing() {
    let (_origin, proxy) = up("
limits:
  - {name: quiet, key: client.ip, rate: 1/day, mode: shadow}
  - {name: locked, key: header.k, rate: 9/day, missing: deny, mode: shadow}
  - {name: gone, rate: 1/day, mode: 'off'}
  - {name: loud, key: client.ip, rate: 5/day}
")
    .await;
    for _ in 0..5 {
        let response = get(proxy.address, "/").await;
        assert_eq!(response.status, 200);
        assert_eq!(response.field("ratelimit-policy"), Some("\"loud\";q=5;w=86400"));
    }
    assert_eq!(get(proxy.address, "/").await.status, 429);
    let totals = proxy.shared.metrics.totals();
    let said: Vec<_> = totals
        .limits
        .iter()
        .map(|limit| {
            use ratelimit_proxy::telemetry::metrics::DecisionOutcome::{Allowed, Denied, ShadowDenied};
            (limit.said(Allowed), limit.said(ShadowDenied), limit.said(Denied))
        })
        .collect();
    assert_eq!(said, [(1, 5, 0), (0, 6, 0), (0, 0, 0), (5, 0, 1)]);
}

#[tokio::test]
async fn the_exempt_are_neither_limited_nor_counted() {
    let (_origin, proxy) = up("
exempt:
  - {path: /healthz}
  - {headers: {x-internal: 'yes*'}, client_ip: [127.0.0.0/8]}
  - {path: /free/**, methods: [GET], not: {query: {x: '*'}}}
limits:
  - {name: one, rate: 1/day}
  - {name: denies, match: {not: {path: /}}, key: header.k, missing: deny, rate: 1/day}
")
    .await;
    for _ in 0..3 {
        let exempt = get(proxy.address, "/healthz/").await;
        assert_eq!((exempt.status, exempt.fields("ratelimit").len()), (200, 0));
    }
    expect(
        proxy.address,
        &[
            ("GET /x/../healthz", 200),
            ("GET /\nx-internal: yes", 200),
            ("GET /free/a", 200),
            ("GET /free", 200),
            // Nothing was counted so far.
            ("GET /", 200),
            ("GET /", 429),
            ("POST /free/a", 429),
            ("get /free/a", 429),
            ("GET /free/a?x=1", 429),
            ("GET /\nx-internal: no", 429),
            // Both lines would have to say it.
            ("GET /\nx-internal: yes\nx-internal: no", 429),
            ("GET /healthz/x", 429),
        ],
    )
    .await;
}

#[tokio::test]
async fn costs() {
    let fields = |limit: &str| format!("limits: [{{name: one, key: header.k, rate: 10/day, {limit}}}]");
    check(&fields("cost: 4"), &[("GET /", 200), ("GET /", 200), ("GET /", 429)]).await;
    check(&fields("cost: 0"), &[("GET /", 200); 20]).await;
    for cost in ["header.x-cost", "query.cost"] {
        let request = |key: &str, value: &str| match cost {
            "query.cost" => format!("GET /?cost={value}\nk: {key}"),
            _ => format!("GET /\nk: {key}\nx-cost: {value}"),
        };
        let (_origin, proxy) = up(&fields(&format!("cost: {cost}"))).await;
        for (key, value, status) in [
            ("a", "9", 200),
            ("a", "2", 429),
            ("a", "0", 200),
            ("a", "1", 200),
            ("a", "0", 200),
            ("a", "1", 429),
            ("b", "10", 200),
            ("c", "11", 413),
            ("c", "4294967295", 413),
            ("c", "4294967296", 400),
            ("c", "-1", 400),
            ("c", "1.5", 400),
            ("c", "", 400),
            ("c", "x", 400),
            // None of these was charged.
            ("c", "10", 200),
        ] {
            let response = ask(proxy.address, &request(key, value)).await;
            assert_eq!(response.status, status, "{cost} {key} {value:?}: {}", response.text());
        }
        // Absent, it is 1.
        let steps = [("GET /\nk: d", 200); 10];
        expect(proxy.address, &steps).await;
        expect(proxy.address, &[("GET /\nk: d", 429)]).await;
        // Twice, it is none: which one would it be?
        let twice = match cost {
            "query.cost" => "GET /?cost=1&cost=1\nk: e",
            _ => "GET /\nk: e\nx-cost: 1\nx-cost: 1",
        };
        expect(proxy.address, &[(twice, 400)]).await;
    }
    let (_origin, proxy) = up(&fields("cost: header.x-cost")).await;
    let never = ask(proxy.address, "GET /\nx-cost: 11").await;
    assert_eq!((never.status, never.fields("retry-after").len()), (413, 0), "asking again never helps");
    assert!(never.text().contains(r#""status":413,"violated-policies":["one"]"#), "{}", never.text());
    let garbled = ask(proxy.address, "GET /\nx-cost: x").await;
    assert!(garbled.text().contains("cost"), "{}", garbled.text());
}

/// Requests that a match means are denied after the first, others never are.
async fn check_match(matches: &str, inside: &[&str], outside: &[&str]) {
    let yaml = format!("limits: [{{name: one, match: {{{matches}}}, rate: 1/day}}]");
    let (_origin, proxy) = up(&yaml).await;
    for request in outside.iter().chain(outside) {
        assert_eq!(ask(proxy.address, request).await.status, 200, "{matches} is not about {request}");
    }
    if let Some(first) = inside.first() {
        assert_eq!(ask(proxy.address, first).await.status, 200);
    }
    for request in inside {
        assert_eq!(ask(proxy.address, request).await.status, 429, "{matches} is about {request}");
    }
}

#[tokio::test]
async fn matches() {
    check_match("methods: [POST, PURGE]", &["POST /", "PURGE /", "post /"], &["GET /", "HEAD /", "POSTS /"])
        .await;
    check_match(
        "host: '*.Example.com'",
        &[
            "GET /\nhost: api.example.com",
            "GET /\nhost: API.EXAMPLE.COM:81",
            "GET /\nhost: a.b.example.com.",
            "GET http://x.example.com:9/\nhost: elsewhere",
        ],
        &[
            "GET /\nhost: example.com",
            "GET /\nhost: api.example.org",
            "GET http://elsewhere/\nhost: api.example.com",
        ],
    )
    .await;
    check_match(
        "host: example.com.",
        &["GET /\nhost: example.com", "GET /\nhost: example.com.", "GET /\nhost: Example.Com.:80"],
        &["GET /\nhost: example.com.evil"],
    )
    .await;
    check_match(
        "headers: {X-Plan: 'free*', accept: '*'}",
        &[
            "GET /\nx-plan: free\naccept: a",
            "GET /\nx-plan: free-7\naccept:",
            "GET /\nx-plan: gold\nx-plan: free\naccept: a",
        ],
        &[
            "GET /\nx-plan: free",
            "GET /\naccept: a",
            "GET /\nx-plan: gold\naccept: a",
            "GET /\nx-plan: FREE\naccept: a",
        ],
    )
    .await;
    check_match(
        "query: {page: 1, q: '*'}",
        &["GET /?page=1&q", "GET /?q=x&p%61ge=%31", "GET /?page=2&page=1&q"],
        &["GET /?page=1", "GET /?q", "GET /?page=11&q", "GET /"],
    )
    .await;
    check_match("client_ip: [127.0.0.0/8]", &["GET /"], &[]).await;
    check_match("client_ip: ['::ffff:127.0.0.0/104', 10.0.0.0/8]", &["GET /"], &[]).await;
    check_match("client_ip: [10.0.0.0/8, '::1']", &[], &["GET /"]).await;
    check_match(
        "methods: [POST], not: {path: /login, headers: {x-ok: '1'}}",
        &["POST /", "POST /login", "POST /login\nx-ok: 2", "POST /login\nx-ok: 1\nx-ok: 2"],
        &["GET /", "POST /login\nx-ok: 1", "POST /login/\nx-ok: 1"],
    )
    .await;
    check_match("not: {not: {methods: [GET]}}", &["GET /"], &["POST /"]).await;
    check_match(
        "path: '/v1/*/x/**'",
        &["GET /v1/a/x", "GET /v1/b/x/y/z", "GET /v1//a/x"],
        &["GET /v1/x", "GET /v1/a/y"],
    )
    .await;
}

#[tokio::test]
async fn two_limits_are_charged_together_or_not_at_all() {
    let (_origin, proxy) = up("
limits:
  - {name: small, key: header.k, rate: 1/day}
  - {name: large, rate: 3/day}
")
    .await;
    expect(
        proxy.address,
        &[
            ("GET /\nk: a", 200),
            ("GET /\nk: a", 429),
            ("GET /\nk: a", 429),
            ("GET /\nk: a", 429),
            ("GET /\nk: b", 200),
            ("GET /\nk: c", 200),
            ("GET /\nk: d", 429),
        ],
    )
    .await;
    let both = ask(proxy.address, "GET /\nk: a").await;
    assert!(both.text().contains(r#""violated-policies":["small","large"]"#), "{}", both.text());
    let one = ask(proxy.address, "GET /\nk: d").await;
    assert!(one.text().contains(r#""violated-policies":["large"]"#), "{}", one.text());
}

/// Upstreams differ in which of several values they read, so any choice would let a client be counted by one and
/// served by another: with a new second line each time, it would never be limited.
#[tokio::test]
async fn a_key_given_twice_chooses_no_bucket() {
    let (origin, proxy) =
        up("limits: [{name: one, key: {first: [header.x-api-key, client.ip]}, rate: 2/day}]").await;
    expect(
        proxy.address,
        &[
            ("GET /\nx-api-key: a", 200),
            ("GET /\nx-api-key: a\nx-api-key: a", 200),
            ("GET /\nx-api-key: a", 429),
            ("GET /\nx-api-key: a\nx-api-key: 1", 400),
            ("GET /\nx-api-key: 2\nx-api-key: a", 400),
            ("GET /\nx-api-key: a\nx-api-key:", 400),
            ("GET /\nx-other: 1\nx-other: 2", 200),
        ],
    )
    .await;
    assert_eq!(origin.seen().len(), 3);
    let twice = ask(proxy.address, "GET /\nx-api-key: a\nx-api-key: b").await;
    assert!(twice.text().contains("a limit counts by is there more than once"), "{}", twice.text());
}

#[tokio::test]
async fn all_limits_that_deny_without_a_store_are_named() {
    let (_origin, proxy) = up("
limits:
  - {name: stolen, key: header.k, rate: 1/day, overrides: [{key: bad, deny: true}]}
  - {name: counted, rate: 1/day}
  - {name: lacking, key: header.x-user, rate: 1/h, missing: deny}
")
    .await;
    let denied = ask(proxy.address, "GET /\nk: bad").await;
    assert_eq!((denied.status, denied.field("retry-after")), (429, Some("86400")), "the largest of them");
    assert!(denied.text().contains(r#""violated-policies":["stolen","lacking"]"#), "{}", denied.text());
    expect(proxy.address, &[("GET /\nk: good\nx-user: u", 200)]).await;
}

/// A limit that denies without asking a store leaves the others uncharged, before and behind it.
#[tokio::test]
async fn a_denial_without_the_store_charges_nobody() {
    check(
        "
limits:
  - {name: before, rate: 1/day}
  - {name: locked, key: header.k, missing: deny, rate: 9/day, overrides: [{key: bad, deny: true}]}
  - {name: behind, rate: 1/day, cost: header.x-cost}
",
        &[
            ("GET /", 429),
            ("GET /\nk: bad", 429),
            ("GET /\nk: a\nx-cost: x", 400),
            ("GET /\nk: a\nx-cost: 9", 413),
            ("GET /\nk: a", 200),
            ("GET /\nk: a", 429),
        ],
    )
    .await;
}

#[tokio::test]
async fn every_algorithm_can_be_written() {
    for (rate, algorithm) in
        [("2/day", "fixed_window"), ("2/month", "fixed_window"), ("2/day", "sliding_window")]
    {
        let yaml = format!("limits: [{{name: w, key: header.k, rate: {rate}, algorithm: {algorithm}}}]");
        let steps = [("GET /\nk: a", 200), ("GET /\nk: a", 200), ("GET /\nk: a", 429), ("GET /\nk: b", 200)];
        check(&yaml, &steps).await;
    }
    let (_origin, proxy) =
        up("limits: [{name: w, rate: 2/month, algorithm: fixed_window, timezone: Europe/Berlin}]").await;
    let response = get(proxy.address, "/").await;
    assert!(response.field("ratelimit").unwrap().starts_with("\"w\";r=1;t="), "{}", response.head);

    let origin = Origin::start(|seen| match seen.line() {
        line if line.contains("/slow") => Reply::hang(),
        _ => Reply::ok("hello"),
    })
    .await;
    let yaml = "limits: [{name: c, key: header.k, concurrency: 1, overrides: [{key: big, concurrency: 2}]}]";
    let proxy = Proxy::from_yaml(yaml, origin.address);
    let mut slow = Vec::new();
    for (key, permits) in [("small", 1), ("big", 2)] {
        for _ in 0..permits {
            let mut client = Client::connect(proxy.address).await;
            client.send(format!("GET /slow HTTP/1.1\r\nhost: a\r\nk: {key}\r\n\r\n")).await;
            slow.push(client);
            origin.until("the slow request", |record| record.seen.len() == slow.len()).await;
        }
        let denied = ask(proxy.address, &format!("GET /\nk: {key}")).await;
        assert_eq!(denied.status, 429, "{key}");
        assert_eq!(
            denied.field("ratelimit-policy").unwrap(),
            format!("\"c\";q={permits};qu=\"concurrent-requests\"")
        );
    }
    expect(proxy.address, &[("GET /\nk: other", 200), ("GET /\nk: other", 200)]).await;
}

#[tokio::test]
async fn the_response_section_says_what_clients_see() {
    const LIMIT: &str = "limits: [{name: one, rate: 1/day}]\n";
    let denied = async |response: &str| {
        let (_origin, proxy) = up(&format!("{LIMIT}response: {{{response}}}")).await;
        (get(proxy.address, "/").await, get(proxy.address, "/").await)
    };
    let (allowed, no) = denied("").await;
    assert_eq!((allowed.status, no.status), (200, 429));
    assert_eq!(allowed.field("ratelimit"), Some("\"one\";r=0;t=86400"));
    assert_eq!(allowed.fields("x-ratelimit-limit"), [""; 0]);
    let exposed = "access-control-expose-headers";
    assert!(
        allowed.field(exposed).unwrap().to_ascii_lowercase().contains("ratelimit-policy"),
        "{}",
        allowed.head
    );
    assert_eq!(no.field("content-type"), Some("application/problem+json"));

    let (allowed, no) = denied("status: 403, headers: legacy, expose: false, body: text").await;
    assert_eq!((allowed.status, no.status), (200, 403));
    assert_eq!(allowed.fields("ratelimit"), [""; 0]);
    assert_eq!(allowed.field("x-ratelimit-limit"), Some("1"));
    assert_eq!(allowed.field("x-ratelimit-remaining"), Some("0"));
    assert_eq!(allowed.field("x-ratelimit-reset"), Some("86400"));
    assert_eq!((allowed.fields(exposed), no.fields(exposed)), (vec![], vec![]));
    assert!(no.text().starts_with("Too many requests."), "{}", no.text());

    let (allowed, _) = denied("headers: both, reset: epoch").await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let reset: u64 = allowed.field("x-ratelimit-reset").unwrap().parse().unwrap();
    assert!((now + 86_300..=now + 86_410).contains(&reset), "{reset} is not a day after {now}");
    assert!(allowed.field("ratelimit").is_some());

    let file = "headers: none, body: {file: denied.html, content_type: text/html}, retry_jitter: 0.5";
    let (origin, proxy) = up(&format!("{LIMIT}response: {{{file}}}")).await;
    assert_eq!(get(proxy.address, "/").await.status, 200);
    let mut waits = Vec::new();
    for _ in 0..20 {
        let no = get(proxy.address, "/").await;
        assert_eq!((no.fields("ratelimit"), no.fields("x-ratelimit-limit")), (vec![], vec![]));
        assert_eq!(
            (no.text(), no.field("content-type")),
            (include_str!("config/denied.html"), Some("text/html"))
        );
        waits.push(no.field("retry-after").unwrap().parse::<u64>().unwrap());
    }
    assert!(waits.iter().all(|wait| (86_300..=129_600).contains(wait)), "{waits:?}");
    waits.dedup();
    assert!(waits.len() > 1, "no spread");
    drop(origin);
}

/// Row 23, "`Connection: close, X-Forwarded-For, Host, Authorization` on 2 lines", for what limits depend on: the
/// upstream sees the values that were counted.
#[tokio::test]
async fn what_limits_look_at_can_not_be_nominated_away() {
    let (origin, proxy) = up("
client_ip: {trusted_proxies: [127.0.0.1], header: x-client}
exempt: [{headers: {x-internal: '1'}}]
limits:
  - name: one
    match: {headers: {x-plan: '*'}, not: {headers: {x-free: '1'}}}
    key: [header.x-api-key, cookie.sid]
    cost: header.x-cost
    rate: 9/day
")
    .await;
    let fields = "connection: x-api-key, X-Plan, x-other\nconnection: X-COST,cookie , x-client, x-free,x-internal
x-api-key: k\nx-plan: p\nx-cost: 2\ncookie: sid=1\nx-client: 6.6.6.6\nx-free: 0\nx-internal: 0\nx-other: gone";
    let response = ask(proxy.address, &format!("GET /\n{fields}")).await;
    assert_eq!(response.field("ratelimit"), Some("\"one\";r=7;t=19200"), "counted as it was sent");
    let seen = origin.only();
    for (name, value) in [
        ("x-api-key", "k"),
        ("x-plan", "p"),
        ("x-cost", "2"),
        ("cookie", "sid=1"),
        ("x-client", "6.6.6.6"),
        ("x-free", "0"),
        ("x-internal", "0"),
    ] {
        assert_eq!(seen.field(name), Some(value), "{name}");
    }
    assert_eq!(seen.fields("x-other"), [""; 0]);
}

/// Row 26, "headers with `_` vs `-` twins (`X_Forwarded_For`)": dropped where a limit depends on one of them, in
/// whichever of the two ways its name is written.
#[tokio::test]
async fn twins_of_key_fields_never_reach_the_upstream() {
    let (origin, proxy) = up("
limits:
  - {name: one, key: [header.x-api-key, header.my_key], rate: 1/day}
")
    .await;
    let twins = "x_api_key: t\nx-api_key: t\nX_API-KEY: t\nmy-key: t\nMY_KEY: k2\nx_forwarded_for: 6.6.6.6\nsome_other: o";
    expect(proxy.address, &[(&format!("GET /\nx-api-key: k1\n{twins}"), 200)]).await;
    expect(proxy.address, &[("GET /\nx-api-key: k1\nmy_key: k2", 429)]).await;
    let seen = origin.only();
    assert_eq!((seen.field("x-api-key"), seen.field("my_key")), (Some("k1"), Some("k2")));
    assert_eq!(seen.field("some_other"), Some("o"));
    for twin in ["x_api_key", "x-api_key", "x_api-key", "my-key", "x_forwarded_for"] {
        assert_eq!(seen.fields(twin), [""; 0], "{twin}");
    }
    // A twin alone is not the key.
    expect(proxy.address, &[("GET /\nx_api_key: k1\nmy-key: k2", 200), ("GET /\nx_api_key: x", 429)]).await;
}

/// Row 117, "64 KiB header value as key": refused as a head that is too large, or counted as any other value; the
/// counters keep nothing of it.
#[tokio::test]
async fn a_huge_value_is_a_key_like_any_other() {
    let (_origin, proxy) = up("limits: [{name: one, key: header.k, rate: 1/day}]").await;
    let request = |last: &str, size: usize| format!("GET /\nk: {}{last}", "x".repeat(size));
    expect(proxy.address, &[(&request("a", 64 << 10), 431), (&request("a", 64 << 10), 431)]).await;
    let big = 60 << 10;
    expect(
        proxy.address,
        &[
            (&request("a", big), 200),
            (&request("a", big), 429),
            (&request("b", big), 200),
            (&request("a", big - 1), 200),
        ],
    )
    .await;

    // In a process of its own, so that what the tests keep does not count.
    let origin = Origin::hello().await;
    let program = Program::start(origin.address, &["1/day by header.k"]).await;
    let id = program.child.id().unwrap();
    let mut client = Client::connect(program.proxy).await;
    let mut fresh = async |numbers: std::ops::Range<usize>| {
        for number in numbers {
            let key = format!("{}{number}", "y".repeat(big));
            client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nk: {key}\r\n\r\n")).await;
            assert_eq!(client.response().await.status, 200);
        }
    };
    fresh(0..20).await;
    let before = resident(id);
    fresh(20..520).await;
    // The keys alone would be 30 MB.
    let grown = resident(id).saturating_sub(before);
    assert!(grown < 4 << 20, "grown by {} KB", grown >> 10);
}

/// Bytes of memory that a process has.
fn resident(id: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// Row 121, "label/log explosion: series count constant under 10⁶ distinct keys/paths/methods": a thousand of each
/// add no series, and nothing of them stands in the metrics.
#[tokio::test]
async fn keys_methods_and_paths_add_no_series() {
    let origin = Origin::hello().await;
    let yaml = std::env::temp_dir().join(format!("ratelimit-keys-{}.yaml", std::process::id()));
    let limits = "
  - {name: all, key: [header.k, method, path, host, query.q, cookie.c], rate: 1/day}
  - {name: captured, match: {path: '/{a}/**'}, key: path.a, cost: header.x-cost, rate: 5/day}
";
    std::fs::write(&yaml, format!("upstream: http://{}\nlimits:{limits}", origin.address)).unwrap();
    let program = Program::run(&["--config", yaml.to_str().unwrap()]).await;
    std::fs::remove_file(&yaml).unwrap();
    let series = async || {
        let metrics = program.admin("/metrics").await.text().to_owned();
        assert!(!metrics.contains("zz"), "{metrics}");
        metrics.lines().filter(|line| !line.starts_with('#')).count()
    };
    // Each kind of answer once.
    for (request, status) in
        [("GET /a", 200), ("GET /a", 429), ("GET /b\nx-cost: x", 400), ("GET /c\nx-cost: 9", 413)]
    {
        assert_eq!(ask(program.proxy, request).await.status, status, "{request}");
    }
    let before = series().await;
    let mut client = Client::connect(program.proxy).await;
    for n in 0..1000 {
        client
            .send(format!(
                "ZZ{n} /zz{n}?q=zz{n} HTTP/1.1\r\nhost: zz{n}\r\nk: zz{n}\r\ncookie: c=zz{n}\r\n\r\n"
            ))
            .await;
        assert_eq!(client.response().await.status, 200);
    }
    assert_eq!(series().await, before);
}
