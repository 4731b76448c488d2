//! What a compiled configuration makes of a request, without sockets: keys, what `explain` says, and what it costs.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use ratelimit_core::KeyBuf;
use ratelimit_proxy::facts::Facts;
use ratelimit_proxy::path::NormalPath;
use ratelimit_proxy::policy::{Effect, Explanation, Policy};

fn policy(yaml: &str) -> Policy {
    Policy::of(&crate::support::proxy::load(yaml, ([127, 0, 0, 1], 1).into()).config)
}

/// A request as entrances have it once it was let in.
#[derive(Clone, Debug)]
struct Request {
    method: Method,
    host: String,
    path: String,
    query: String,
    headers: HeaderMap,
    client: IpAddr,
}

impl Request {
    fn new(method: &str, target: &str, fields: &[(&'static str, &str)]) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Self {
            method: method.parse().unwrap(),
            host: "api.example.com".to_owned(),
            path: NormalPath::parse(path).unwrap().as_str().to_owned(),
            query: query.to_owned(),
            headers,
            client: [192, 0, 2, 7].into(),
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            query: &self.query,
            headers: &self.headers,
            claims: None,
            descriptor: None,
            tls_client: None,
            client: self.client,
        }
    }
}

/// The key of the only limit that a request meets.
fn key(policy: &Policy, request: &Request) -> Vec<u8> {
    let mut keys = KeyBuf::new();
    // As on a connection, where the buffer is used again.
    policy.select(&request.facts(), &mut keys).unwrap();
    keys.clear();
    let selection = policy.select(&request.facts(), &mut keys).unwrap();
    assert_eq!(selection.hits.len(), 1);
    keys.slice(selection.hits[0].key.clone()).to_vec()
}

/// What a request holds for each part of a key, as the test wrote it.
#[derive(Clone, Debug, PartialEq)]
struct Tuple {
    header: Option<Vec<u8>>,
    /// Of three sources, the first that is there.
    query: Option<Vec<u8>>,
    cookie: Option<String>,
    other: Option<Vec<u8>>,
    capture: Vec<u8>,
    method: &'static str,
    client: IpAddr,
}

impl Tuple {
    /// What the key must tell apart.
    fn identity(&self) -> impl PartialEq + std::fmt::Debug {
        let sources = [self.query.clone(), self.cookie.clone().map(String::into_bytes), self.other.clone()];
        let first = sources.into_iter().enumerate().find_map(|(number, value)| Some((number, value?)));
        (self.header.clone(), first, self.capture.clone(), self.method, self.client)
    }

    fn request(&self) -> Request {
        let escaped = |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02x}")).collect::<String>();
        let query = self.query.as_ref().map(|value| format!("?q={}", escaped(value))).unwrap_or_default();
        let mut request = Request::new(self.method, &format!("/v1/{}/x{query}", escaped(&self.capture)), &[]);
        let mut add = |name, value: &[u8]| {
            request.headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        };
        self.header.iter().for_each(|value| add("x-key", value));
        self.other.iter().for_each(|value| add("x-other", value));
        self.cookie.iter().for_each(|value| add("cookie", format!("a=b; c={value}; d").as_bytes()));
        request.client = self.client;
        request
    }
}

/// Values that try to pass for others: separators, lengths, tags, normal forms.
fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "", "a", "b", "ab", "ba", "a|b", "|", "{}", "{a}", "a,b", "a, b", "A", "\u{e9}", "e\u{301}", "\u{1}",
            "\u{1}\u{1}a", "\u{6}", "\u{7}\u{0}", "\u{4}", "192.0.2.7", "2001:db8::", "missing", "null", "\r\n", "\0",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..5),
        // Around the lengths that are written differently.
        1 => (prop::sample::select(vec![126_usize, 127, 128, 129, 300]), prop::sample::select(vec![b'a', b'b']))
            .prop_map(|(length, byte)| vec![byte; length]),
    ]
}

/// As much of a value as a field can hold.
fn for_header(value: Vec<u8>) -> Vec<u8> {
    let fine = |byte: &u8| HeaderValue::from_bytes(&[b'x', *byte, b'x']).is_ok();
    value.into_iter().filter(fine).collect::<Vec<_>>().trim_ascii().to_vec()
}

fn header_value() -> impl Strategy<Value = Vec<u8>> {
    value().prop_map(for_header)
}

/// Bytes that can be one segment of a path: text, no separator, no dot segment.
fn segment() -> impl Strategy<Value = Vec<u8>> {
    value().prop_map(|value| {
        let text: String = String::from_utf8_lossy(&value).replace(['/', '\\', '\0'], "_");
        let dotted = matches!(text.split(';').next(), Some("." | ".." | ""));
        if dotted { format!("x{text}") } else { text }.into_bytes()
    })
}

fn tuple() -> impl Strategy<Value = Tuple> {
    let cookie = "[ab|{},]{0,2}";
    let client = prop::sample::select(vec!["192.0.2.7", "192.0.2.8", "2001:db8::", "2001:db8:0:1::"]);
    let methods = prop::sample::select(vec!["GET", "PUT", "A"]);
    (
        prop::option::of(header_value()),
        prop::option::of(value()),
        prop::option::of(cookie),
        prop::option::of(header_value()),
        segment(),
        methods,
        client,
    )
        .prop_map(|(header, query, cookie, other, capture, method, client)| Tuple {
            header,
            query,
            cookie,
            other,
            capture,
            method,
            client: client.parse().unwrap(),
        })
}

/// A second tuple that is much like the first: a part changed, or moved to where another was.
fn pair() -> impl Strategy<Value = (Tuple, Tuple)> {
    (tuple(), tuple(), 0..9_u8).prop_map(|(one, other, part)| {
        let mut like = one.clone();
        match part {
            0 => like.header = other.header,
            1 => like.query = other.query,
            2 => like.cookie = other.cookie,
            3 => like.other = other.other,
            4 => like.capture = other.capture,
            5 => (like.query, like.other) = (one.other.clone(), one.query.clone().map(for_header)),
            6 => like.header = one.query.clone().map(for_header),
            7 => like.client = other.client,
            _ => like = other,
        }
        (one, like)
    })
}

const EVERYTHING: &str = "
limits:
  - name: one
    match: {path: '/v1/{segment}/**'}
    key: [header.x-key, {first: [query.q, cookie.c, header.x-other]}, path.segment, method, client.ip]
    rate: 1/day
";

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Row 120, "key component injection (`a|b`, `{}`, CRLF, NUL, unicode normal forms, case)": different tuples of
    /// values, what is missing and which source it came from included, are different keys, and equal ones equal.
    #[test]
    fn different_tuples_are_different_keys((one, other) in pair()) {
        thread_local!(static POLICY: Policy = policy(EVERYTHING));
        let (key_of_one, key_of_other) =
            POLICY.with(|policy| (key(policy, &one.request()), key(policy, &other.request())));
        prop_assert_eq!(key_of_one == key_of_other, one.identity() == other.identity());
    }
}

const SHOP: &str = "
client_ip: {trusted_proxies: [10.0.0.0/8]}
exempt:
  - {client_ip: [10.1.0.0/16]}
  - {path: /healthz, methods: [GET, HEAD]}
limits:
  - name: per-client
    key: {first: [header.x-api-key, client.ip]}
    rate: 100/s
    burst: 200
  - name: login
    match: {path: /login, methods: [POST, PUT]}
    key: client.ip
    rate: 5/min
    algorithm: sliding_window
  - name: plan
    match: {path: '/v1/{resource}/**', headers: {x-api-key: '*'}}
    key: [header.x-api-key, path.resource]
    rate: 10000/month
    algorithm: fixed_window
    timezone: Europe/Berlin
    cost: header.x-cost
    overrides:
      - {key: [gold, '*'], rate: 1000000/month}
      - {key: [internal, '*'], unlimited: true}
      - {key: [stolen, '*'], deny: true}
  - name: reports
    match: {path: /reports/**, host: '*.example.com', query: {page: '1*'}, not: {headers: {x-free: '1'}}}
    key: cookie.sid
    missing: skip
    concurrency: 4
    mode: shadow
  - name: office
    match: {client_ip: [198.51.100.0/24, '2001:db8::/32']}
    key: [client.ip, query.user]
    missing: deny
    rate: 1/s
  - {name: retired, rate: 1/s, mode: 'off'}
  - {name: everything, rate: 5000/s}
";

fn explain(request: &Request) -> Explanation {
    let policy = policy(SHOP);
    policy.explain(&request.facts(), &mut KeyBuf::new())
}

#[track_caller]
fn says(request: &Request, text: &str) {
    let said = explain(request).to_string();
    assert_eq!(said, text.trim_start_matches('\n'), "\n{said}\n");
}

#[test]
fn explain_says_what_counts_and_why_the_rest_does_not() {
    says(
        &Request::new("POST", "/x/../login;v=1", &[("x-api-key", "k\"1")]),
        r#"
POST /login;v=1, host api.example.com, client 192.0.2.7
per-client  counts     quota 100/s, burst 200; key header.x-api-key = "k\"1"; cost 1
login       counts     quota 5/min, sliding_window; key client.ip = 192.0.2.7; cost 1
plan        no match   path /login;v=1 does not match /v1/{resource}/**
reports     no match   path /login;v=1 does not match /reports/**
office      no match   client 192.0.2.7 is not in 198.51.100.0/24, 2001:db8::/32
retired     off        switched off
everything  counts     quota 5000/s; one bucket for all; cost 1"#,
    );
    let office = Request {
        client: "2001:db8:1:2::7".parse().unwrap(),
        ..Request::new("GET", "/reports/1?page=12", &[])
    };
    says(
        &office,
        r#"
GET /reports/1, host api.example.com, client 2001:db8:1:2::7
per-client  counts     quota 100/s, burst 200; key client.ip = 2001:db8:1:2::/64; cost 1
login       no match   path /reports/1 does not match /login
plan        no match   path /reports/1 does not match /v1/{resource}/**
reports     skips      cookie.sid is missing
office      denies     query.user is missing; key client.ip = 2001:db8:1:2::/64, query.user missing
retired     off        switched off
everything  counts     quota 5000/s; one bucket for all; cost 1"#,
    );
    says(
        &Request::new("GET", "/reports/1?page=12", &[("cookie", "sid=s"), ("x-free", "1")]),
        r#"
GET /reports/1, host api.example.com, client 192.0.2.7
per-client  counts     quota 100/s, burst 200; key client.ip = 192.0.2.7; cost 1
login       no match   path /reports/1 does not match /login
plan        no match   path /reports/1 does not match /v1/{resource}/**
reports     no match   excluded by not: header x-free: 1
office      no match   client 192.0.2.7 is not in 198.51.100.0/24, 2001:db8::/32
retired     off        switched off
everything  counts     quota 5000/s; one bucket for all; cost 1"#,
    );
    says(
        &Request::new("GET", "/healthz", &[]),
        "GET /healthz, host api.example.com, client 192.0.2.7\n\
         exempt, so no limit counts it: GET|HEAD /healthz (exemption 2)",
    );
}

/// The line about one limit.
fn line(request: &Request, limit: &str) -> String {
    let explanation = explain(request);
    let explained = explanation.limits.iter().find(|explained| explained.limit == limit).unwrap();
    format!("{} | {explained}", explained.effect)
}

#[test]
fn explain_names_overrides_costs_and_conditions() {
    let plan = |key: &str, cost: &str| {
        let mut fields = vec![("x-api-key", key)];
        fields.extend((!cost.is_empty()).then_some(("x-cost", cost)));
        line(&Request::new("GET", "/v1/us%C3%A9rs/7", &fields), "plan")
    };
    let key = |value: &str| format!("key header.x-api-key = \"{value}\", path.resource = \"us\u{e9}rs\"");
    assert_eq!(
        plan("k", ""),
        format!("counts | quota 10000/month, fixed_window, Europe/Berlin; {}; cost 1", key("k"))
    );
    assert_eq!(
        plan("gold", "3"),
        format!(
            "counts | quota 1000000/month, fixed_window, Europe/Berlin (override 1); {}; cost 3",
            key("gold")
        )
    );
    assert_eq!(plan("internal", "3"), format!("unlimited | override 2 frees the key; {}", key("internal")));
    assert_eq!(plan("stolen", "3"), format!("denies | override 3 denies the key; {}", key("stolen")));
    assert_eq!(
        plan("k", "3x"),
        format!(
            "bad cost | the cost that the request names is not a number: the answer is 400; {}",
            key("k")
        )
    );
    assert_eq!(
        plan("k", "10001"),
        format!(
            "never | it holds 10000 at most, so the answer is 413; quota 10000/month, fixed_window, Europe/Berlin; {}; \
             cost 10001",
            key("k")
        )
    );
    assert_eq!(line(&Request::new("GET", "/v1/x", &[]), "plan"), "no match | there is no header x-api-key");
    assert_eq!(
        line(&Request::new("GET", "/login", &[]), "login"),
        "no match | method GET is not one of POST, PUT"
    );
    let reports = |target: &str, host: &str, fields: &[(&'static str, &str)]| {
        line(&Request { host: host.to_owned(), ..Request::new("GET", target, fields) }, "reports")
    };
    assert_eq!(
        reports("/reports/?page=1", "a.example.com", &[("cookie", "sid=s")]),
        "counts | quota 4 at a time; key cookie.sid = \"s\"; cost 1; shadow, so it never denies"
    );
    assert_eq!(
        reports("/reports", "example.org", &[]),
        "no match | host \"example.org\" is not *.example.com"
    );
    assert_eq!(reports("/reports", "a.example.com", &[]), "no match | there is no query parameter page");
    assert_eq!(
        reports("/reports?page=2%0a", "a.example.com", &[]),
        r#"no match | query parameter page is "2\n", not 1*"#
    );
}

/// Row 124 for what `explain` prints: nothing of a request stands there unescaped.
#[test]
fn explain_escapes_what_is_no_text() {
    let mut request = Request::new("GET", "/", &[]);
    request.headers.append("x-api-key", HeaderValue::from_bytes(b"\xff\"\\").unwrap());
    assert_eq!(
        line(&request, "per-client"),
        r#"counts | quota 100/s, burst 200; key header.x-api-key = "\xff\"\\"; cost 1"#
    );
    request.headers.insert("x-api-key", HeaderValue::from_bytes("\u{9b}31m\u{202e}".as_bytes()).unwrap());
    let said = explain(&request).to_string();
    assert!(!said.chars().any(|c| c.is_control() && c != '\n' || c == '\u{202e}'), "{said:?}");
}

#[test]
fn explain_as_data() {
    let request = Request::new("GET", "/v1/users", &[("x-api-key", "gold"), ("x-cost", "3")]);
    let json = serde_json::to_value(explain(&request)).unwrap();
    assert_eq!(
        (&json["method"], &json["host"], &json["path"], &json["client"], &json["exempt"]),
        (
            &"GET".into(),
            &"api.example.com".into(),
            &"/v1/users".into(),
            &"192.0.2.7".into(),
            &serde_json::Value::Null
        )
    );
    let effects: Vec<_> =
        json["limits"].as_array().unwrap().iter().map(|limit| limit["effect"].clone()).collect();
    assert_eq!(effects, ["counts", "no_match", "counts", "no_match", "no_match", "off", "counts"]);
    assert_eq!(
        json["limits"][2],
        serde_json::json!({
            "limit": "plan",
            "mode": "enforce",
            "effect": "counts",
            "why": null,
            "key": [
                {"source": "header.x-api-key", "value": "gold"},
                {"source": "path.resource", "value": "users"},
            ],
            "quota": "1000000/month, fixed_window, Europe/Berlin",
            "quota_from": "override 1",
            "cost": 3,
            "settled": null,
        })
    );
    assert_eq!(json["limits"][3]["mode"], "shadow");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// `explain` and `select` can't disagree: the same limits, keys, quotas and costs.
    #[test]
    fn explain_agrees_with_select(
        method in prop::sample::select(vec!["GET", "POST", "post"]),
        target in prop::sample::select(vec!["/", "/login", "/v1/a", "/reports/x?page=1", "/healthz", "/login?user=1"]),
        api_key in prop::option::of(prop::sample::select(vec!["gold", "internal", "stolen", "k", ""])),
        cost in prop::option::of(prop::sample::select(vec!["0", "3", "x", "99999"])),
        sid in any::<bool>(),
        client in prop::sample::select(vec!["192.0.2.7", "198.51.100.1", "2001:db8::1", "10.1.0.1"]),
    ) {
        let policy = policy(SHOP);
        let mut fields = Vec::new();
        fields.extend(api_key.map(|key| ("x-api-key", key)));
        fields.extend(cost.map(|cost| ("x-cost", cost)));
        fields.extend(sid.then_some(("cookie", "sid=1")));
        let request = Request { client: client.parse().unwrap(), ..Request::new(method, target, &fields) };
        let (mut keys, mut explained_keys) = (KeyBuf::new(), KeyBuf::new());
        let explanation = policy.explain(&request.facts(), &mut explained_keys);
        let counted: Vec<_> = explanation
            .limits
            .iter()
            .enumerate()
            .filter(|(_, limit)| matches!(limit.effect, Effect::Counts | Effect::Never))
            .map(|(rule, limit)| {
                (rule, explained_keys.slice(limit.bytes.clone().unwrap()).to_vec(), limit.cost.unwrap())
            })
            .collect();
        let refused = explanation.limits.iter().any(|limit| matches!(limit.effect, Effect::Denies | Effect::BadCost));
        match policy.select(&request.facts(), &mut keys) {
            Err(_) => prop_assert!(refused),
            Ok(selection) => {
                prop_assert!(!refused);
                prop_assert_eq!(selection.exempt, explanation.exempt.is_some());
                let hits: Vec<_> = selection
                    .hits
                    .iter()
                    .map(|hit| (hit.rule, keys.slice(hit.key.clone()).to_vec(), hit.cost))
                    .collect();
                prop_assert_eq!(hits, counted);
            }
        }
    }
}

/// The policy's promise: a request that meets limits costs no memory of its own.
#[test]
fn selecting_allocates_nothing() {
    let policy = policy(
        "
exempt: [{path: /healthz}, {headers: {x-internal: 'yes*'}}]
limits:
  - name: plan
    match: {path: '/v1/{resource}/**', methods: [GET, POST], host: '*.example.com', not: {query: {free: '1'}}}
    key: [header.x-api-key, path.resource]
    cost: header.x-cost
    rate: 100/s
    overrides: [{key: [gold, '*'], rate: 1000/s}, {key: ['g*', users], deny: true}, {key: [x, y], unlimited: true}]
  - name: path
    key: [{first: [cookie.sid, query.user, client.ip]}, path]
    rate: 100/s
",
    );
    let fields = [("x-api-key", "k-0123456789"), ("x-cost", "3"), ("cookie", "a=b; sid=s-0123456789")];
    let mut keys = KeyBuf::new();
    for fields in [&fields[..], &fields[..2], &[("x-api-key", "gold")]] {
        let request = Request::new("GET", "/v1/users/7?page=2&user=ann", fields);
        // Keys of more than 64 bytes need memory, once a connection.
        keys.clear();
        policy.select(&request.facts(), &mut keys).unwrap();
        let mut hits = 0;
        let measured = allocation_counter::measure(|| {
            for _ in 0..100 {
                keys.clear();
                hits += policy.select(&request.facts(), &mut keys).unwrap().hits.len();
            }
        });
        assert_eq!((hits, measured.count_total), (200, 0), "{fields:?}");
    }
}
