//! The configuration language: what loads and what it comes to, and for everything that does not, what is said
//! and where.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};
use proptest::prelude::*;
use ratelimit_core::{Algorithm, FieldStyle, Overflow, Rate, ResetFormat};
use ratelimit_proxy::DenialBody;
use ratelimit_proxy::config::{
    self, Balance, ConfigFault, Cost, Listener, Loaded, LogKeys, LogRequests, MemoryConfig, Missing, Quota,
    RedisConfig, Servers, StoreConfig, Trust,
};
use ratelimit_proxy::identity::token::KeySource;
use ratelimit_redis::OnFailure;
use ratelimit_redis::lease::Policy;

const CONTRACT: &str = include_str!("config/contract.yaml");
const LIVING: &str = include_str!("config/living.yaml");

fn here() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/end_to_end/config"))
}

fn env(name: &str) -> Option<String> {
    match name {
        "BURST" => Some("200".to_owned()),
        "SECRET" => Some("a-token-of-many-letters".to_owned()),
        "WRONG" => Some("many".to_owned()),
        "TRICK" => Some("1/s\nlimits: []".to_owned()),
        _ => None,
    }
}

fn load(text: &str) -> Result<Loaded, Vec<ConfigFault>> {
    config::load_str(text, "c.yaml", &env, here())
}

fn loads(text: &str) -> Loaded {
    load(text).unwrap_or_else(|faults| panic!("{text}\n{}", lines(&faults).join("\n")))
}

fn lines(faults: &[ConfigFault]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

/// The faults of a text, without the file's name.
fn faults(text: &str) -> Vec<String> {
    let faults = load(text).expect_err(text);
    lines(&faults).into_iter().map(|line| line.strip_prefix("c.yaml:").unwrap().to_owned()).collect()
}

/// The faults of a configuration that is sound but for these limits, the first of which is in line 3.
fn of_limits(text: &str) -> Vec<String> {
    faults(&format!("upstream: http://127.0.0.1:9000\nlimits:\n{text}"))
}

#[track_caller]
fn assert_faults(found: &[String], expected: &[&str]) {
    assert_eq!(found, expected, "\n{}\n", found.join("\n"));
}

#[test]
fn all_that_lives_loads_and_means_what_it_says() {
    let Loaded { config, warnings } = loads(LIVING);
    assert_eq!(lines(&warnings), [""; 0]);
    let listener = |address: &str, proxy_protocol| Listener {
        proxy_protocol,
        ..Listener::from(address.parse::<SocketAddr>().unwrap())
    };
    assert_eq!(config.listen, [listener("127.0.0.1:8080", false), listener("[::1]:8080", true)]);
    assert_eq!(config.admin, "127.0.0.1:9090".parse().ok());
    assert!(config.operators.token.is_some_and(|token| token.is(b"a-token-of-many-letters")));
    assert_eq!(config.operators.overrides_file, Some(here().join("kept.json")));
    let [upstream] = &config.upstreams[..] else { panic!("{:?}", config.upstreams) };
    let servers: Vec<_> = upstream.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["http://127.0.0.1:9000", "http://[::1]:9000"]);
    assert_eq!(upstream.matches.path.as_ref().unwrap().to_string(), "/**");
    assert!(matches!(&upstream.balance, Balance::Hash(key) if key[0].to_string() == "header.x-user"));
    assert_eq!(
        (upstream.connect, upstream.response),
        (Some(Duration::from_millis(250)), Some(Duration::from_secs(60)))
    );
    assert_eq!(upstream.retries, 2);
    let check = upstream.health_check.as_ref().unwrap();
    assert_eq!(
        (check.path.as_str(), check.interval.as_millis(), check.timeout.as_millis()),
        ("/up?x", 700, 300)
    );
    assert_eq!((check.fall, check.rise), (4, 3));
    let proxies = Trust::Proxies(vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.1/32".parse().unwrap()]);
    assert_eq!(config.client_ip.trust, proxies);
    assert_eq!((config.client_ip.header.as_str(), config.client_ip.ipv6_prefix), ("x-real-ip", 56));
    assert_eq!(config.exempt.len(), 2);
    assert_eq!(config.exempt[0].client_ip, ["10.1.0.0/16".parse().unwrap()]);
    assert_eq!(config.exempt[1].path.as_ref().unwrap().to_string(), "/healthz");

    let names: Vec<_> = config.limits.iter().map(|limit| limit.limit.name()).collect();
    assert_eq!(names, ["per-client", "plan", "slow-reports", "limit-4", "later", "per-user"]);
    let shown = |limit: usize| config.limits[limit].key.iter().map(ToString::to_string).collect::<Vec<_>>();

    let limit = &config.limits[0];
    assert_eq!((limit.limit.spec().rate, limit.limit.capacity()), ("100/s".parse().ok(), 200));
    assert_eq!(shown(0), ["first of header.x-api-key, client.ip"]);
    assert_eq!((limit.missing, &limit.cost, limit.off), (Missing::Skip, &Cost::Fixed(2), false));

    let limit = &config.limits[1];
    let matches = &limit.matches;
    assert_eq!(matches.path.as_ref().unwrap().to_string(), "/v1/{resource}/**");
    assert_eq!(matches.methods, [Method::POST]);
    assert_eq!(matches.host.as_ref().unwrap().as_str(), "*.example.com");
    let (header, glob) = &matches.headers[0];
    assert_eq!((header, glob.as_str()), (&HeaderName::from_static("x-api-key"), "*"));
    assert_eq!((matches.query[0].0.as_str(), matches.query[0].1.as_str()), ("page", "1"));
    assert_eq!(matches.client_ip, ["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(matches.not.as_ref().unwrap().methods.len(), 2);
    assert_eq!(shown(1), ["header.x-api-key", "path.resource"]);
    assert_eq!(limit.limit.spec().algorithm, Algorithm::FixedWindow);
    assert_eq!(limit.limit.spec().rate, Rate::per_month(10_000).ok());
    assert_eq!(limit.limit.spec().time_zone.as_deref(), Some("Europe/Berlin"));
    assert_eq!(limit.missing, Missing::Deny);
    assert!(
        matches!(&limit.cost, Cost::Value { source, default: 1 } if source.to_string() == "header.x-cost")
    );
    let keys: Vec<Vec<&str>> =
        limit.overrides.iter().map(|o| o.key.iter().map(|glob| glob.as_str()).collect()).collect();
    assert_eq!(keys, [["gold-key", "*"], ["internal", "*"], ["stolen-key", "*"]]);
    let quotas: Vec<_> = limit.overrides.iter().map(|o| &o.quota).collect();
    assert!(matches!(quotas[..], [Quota::Limit(gold), Quota::Unlimited, Quota::Deny]
            if gold.capacity() == 1_000_000 && gold.id() == limit.limit.id()));

    let limit = &config.limits[2];
    assert_eq!((limit.limit.capacity(), limit.limit.is_shadow()), (4, true));
    assert!(matches!(&limit.overrides[0].quota, Quota::Limit(more) if more.capacity() == 8));
    assert_eq!(config.limits[3].limit.spec().algorithm, Algorithm::SlidingWindow);
    assert!(config.limits[4].off);
    let limit = &config.limits[5];
    assert!(limit.names_descriptors() && !config.limits[0].names_descriptors());
    assert_eq!(
        (limit.matches.domain.as_deref(), &shown(5)[..]),
        (Some("edge"), &["descriptor.user".to_owned()][..])
    );
    let entries: Vec<_> = limit.matches.descriptors.iter().flatten().collect();
    let entries: Vec<_> = entries.iter().map(|(name, glob)| (name.as_str(), glob.as_str())).collect();
    assert_eq!(entries, [("service", "auth"), ("user", "*")]);
    let rls = config.rls.unwrap();
    assert_eq!((rls.listen, rls.deadline), ("127.0.0.1:8081".parse().unwrap(), Duration::from_millis(10)));
    assert_eq!(
        (rls.max_connection_age, rls.max_override),
        (Duration::from_secs(3600), "1000/s".parse().ok())
    );

    let answers = &config.answers;
    assert_eq!((answers.status, answers.retry_jitter), (StatusCode::FORBIDDEN, 0.25));
    let fields = (answers.fields.style, answers.fields.reset, answers.fields.expose);
    assert_eq!(fields, (FieldStyle::Both, ResetFormat::Epoch, false));
    assert!(matches!(&answers.body, DenialBody::File { content, content_type }
            if content == "<h1>Slow down</h1>\n" && content_type == "text/html"));
    let log = config.log;
    assert_eq!((log.requests, log.sample, log.keys), (LogRequests::All, None, LogKeys::Plain));
    assert_eq!(log.doubts, Some(Duration::from_secs(90)));
    let StoreConfig::Memory(memory) = config.store else { panic!("{:?}", config.store) };
    assert_eq!((memory.max_keys, memory.overflow), (5000, Overflow::Deny));
    let server = config.server;
    assert_eq!((server.threads, server.max_connections, server.drain), (Some(2), 100, Duration::ZERO));
    assert_eq!(server.max_memory, Some(512 << 20));
    assert_eq!(server.max_connections_per_client, Some(20));
    assert_eq!(server.new_connections_per_client, Some(Rate::per_second(50)));
    let t = server.timeouts;
    let millis = [t.head, t.idle, t.body, t.write, t.connect, t.response].map(|time| time.as_millis());
    assert_eq!(millis, [1000, 2000, 3000, 4000, 1000, 30_000]);
}

#[test]
fn what_is_left_out_is_as_documented() {
    let config = loads("upstream: http://127.0.0.1:9000\nlimits: [100/s by client.ip]\n").config;
    assert_eq!(config.listen, [Listener::from("0.0.0.0:8080".parse::<SocketAddr>().unwrap())]);
    assert_eq!(config.admin, "127.0.0.1:9090".parse().ok());
    assert_eq!((config.client_ip.trust, config.client_ip.ipv6_prefix), (Trust::Nobody, 64));
    assert_eq!(config.answers.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        (config.log.requests, config.log.sample, config.log.keys),
        (LogRequests::Denied, Some(20), LogKeys::Hash)
    );
    assert_eq!(config.log.doubts, Some(Duration::from_secs(300)));
    assert_eq!(loads("upstream: http://a\nlimits: []\nlog: {doubts: off}").config.log.doubts, None);
    assert!(matches!(config.store, StoreConfig::Memory(MemoryConfig { max_keys: 1_000_000, .. })));
    assert_eq!(config.limits[0].limit.name(), "limit-1");
    assert_eq!(loads("upstream: http://a\nadmin: off\nlimits: []").config.admin, None);
    // JSON is YAML.
    let json =
        r#"{"upstream": "http://a", "limits": [{"name": "a", "rate": "1/s", "burst": 2, "key": ["host"]}]}"#;
    assert_eq!(loads(json).config.limits[0].limit.capacity(), 2);
}

#[test]
fn the_whole_language_is_known_and_what_waits_is_said_to() {
    assert_faults(
        &faults(CONTRACT),
        &[
            "31:5: limits[0]: looks at a verified token, and jwt says of none whom to believe (write jwt: {issuer: https://login.example.com}, say)",
            "51:5: limits[3]: looks at a verified token, and jwt says of none whom to believe (write jwt: {issuer: https://login.example.com}, say)",
            "56:5: limits[4]: looks at a verified token, and jwt says of none whom to believe (write jwt: {issuer: https://login.example.com}, say)",
        ],
    );
    // The words of the language that its example only names.
    let rest = "\
listen: [{address: 0.0.0.0:8080, tls: {cert: a, key: b, client_ca: c}, proxy_protocol: required}]
admin: {listen: 0.0.0.0:9090, token_env: TOKEN}
upstreams:
  - {servers: [https://a, h2c://b], balance: {hash: client.ip}}
  - {servers: http://c, balance: round_robin}
store:
  redis: {sentinels: [redis://:secret@a], master: m}
  consistency: leased
jwt: {issuer: https://a, bound: true}
rls: {listen: 127.0.0.1:8081, tls: {cert: a, key: b}, deadline: 15ms, max_connection_age: 30m, max_override: 1/s}
limits:
  - {name: a, rate: 1/s, key: [basic.user, digest.user, tls.client], overdraft: true}
  - {name: b, rate: 1/s, key: descriptor.x, match: {domain: d, descriptors: [{service: auth}, {user: '*'}]}}
  - {name: c, rate: 1/s, count: {status: 5xx, grpc_status: [16]}}
  - {name: d, tiers: {by: client.ip, default: x, x: {rate: 1/s, burts: 2}}}
";
    assert_faults(
        &faults(rest),
        &[
            "2:42: admin.token_env: the variable \"TOKEN\" of the environment is not set (token_env names a variable; set it)",
            "5:5: upstreams[1]: no request comes here: the entry in line 4 takes all",
            "10:31: rls.tls: not available yet",
            "15:65: limits[3].tiers.x.burts: there is no such field (did you mean burst?)",
        ],
    );
}

#[test]
fn what_limits_on_envoys_questions_can_not_have() {
    assert_faults(
        &of_limits(
            "  - {name: a, rate: 1/s, key: [descriptor.user, client.ip]}
  - {name: b, rate: 1/s, match: {domain: d, path: /a, not: {methods: [GET]}}, key: descriptor.user, cost: 1}
  - {name: c, match: {descriptors: [{a: b}]}, concurrency: 4}
  - {name: d, rate: 1/s, match: {descriptors: []}}
  - {name: e, rate: 1/s, match: {descriptors: [{a: b, c: d}]}, count: {status: 401}}
  - {name: f, rate: 1/s, match: {descriptors: {a: b}}}
  - {name: g, rate: 1/s, key: descriptor}
",
        ),
        &[
            "3:49: limits[0].key[1]: Envoy's questions have no client.ip: the limit names descriptors (write descriptor.NAME)",
            "4:51: limits[1].match.path: Envoy's questions have no path: they are matched by domain and descriptors (let Envoy send it as an entry of the descriptor)",
            "4:70: limits[1].match.not.methods: Envoy's questions have no method: they are matched by domain and descriptors (let Envoy send it as an entry of the descriptor)",
            "4:107: limits[1].cost: the cost of a question comes with it (Envoy says it: hits_addend in its configuration)",
            "5:60: limits[2].concurrency: concurrency needs to know when a request ends, and Envoy does not tell",
            "6:47: limits[3].match.descriptors: an empty list: no descriptor has no entry (write [{user: \"*\"}], say, or leave it out to mean every descriptor)",
            "7:48: limits[4].match.descriptors[0]: 2 names where one entry has one (write [{service: auth}, {user: \"*\"}], in order)",
            "7:71: limits[4].count: count needs to know when a request ends, and Envoy does not tell",
            "8:47: limits[5].match.descriptors: a section is not a list",
            "9:31: limits[6].key: \"descriptor\": descriptor. needs a name behind the dot",
        ],
    );
    let text = "upstream: http://a\nlimits: [{name: a, rate: 1/s, key: descriptor.user}]";
    assert!(lines(&loads(text).warnings)[0].contains("rls is not given"));
    let taken = faults("upstream: http://a\nlisten: 127.0.0.1:81\nrls: 127.0.0.1:81\nlimits: []");
    assert_eq!(taken, ["3:6: rls: 127.0.0.1:81 is taken already, in line 2"]);
}

#[test]
fn tokens_tiers_and_outcomes_mean_what_they_say() {
    let config = loads(
        "upstream: http://a
jwt: {issuer: https://issuer, jwks_url: https://keys/jwks.json, audience: [a, b], leeway: 5s}
limits:
  - name: t
    key: [jwt.realm.user, basic.user, digest.user]
    tiers: {by: jwt.plan, free: {rate: 10/day}, pro: {rate: 100/day, burst: 20}, odd: {unlimited: true}, default: free}
    cost: {reserve: header.x-max, default: 5, actual: {response_header: x-used}, if_unknown: refund}
    overdraft: true
    match: {jwt: {role: 'a*'}}
  - {name: u, rate: 1/s, count: {status: [401, 5xx], grpc_status: 16}}
",
    )
    .config;
    let jwt = config.jwt.unwrap();
    assert!(matches!(jwt.source, KeySource::JwksUrl(_)));
    assert_eq!((jwt.issuer.as_deref(), jwt.leeway), (Some("https://issuer"), Duration::from_secs(5)));
    assert_eq!(jwt.audience, ["a", "b"]);
    let limit = &config.limits[0];
    assert_eq!(limit.limit.spec().rate, "10/day".parse().ok(), "the default tier stands for the limit");
    assert_eq!(limit.limit.spec().debt, 40, "four times the burst");
    let tiers = limit.tiers.as_ref().unwrap();
    assert_eq!((tiers.by.to_string().as_str(), tiers.default, tiers.tiers.len()), ("jwt.plan", Some(0), 3));
    assert!(matches!(&tiers.tiers[1].1, Quota::Limit(pro) if pro.capacity() == 20 && pro.spec().debt == 80));
    assert!(limit.overdraft && limit.matches.jwt[0].0 == "role");
    let late = limit.late.as_ref().unwrap();
    assert!(late.actual.as_ref().unwrap().refund_unknown && late.count.is_none());
    assert!(matches!(&limit.cost, Cost::Value { default: 5, .. }));
    let count = config.limits[1].late.as_ref().unwrap().count.clone().unwrap();
    assert_eq!((count.status, count.grpc), (vec![401..=401, 500..=599], vec![16]));
}

#[test]
fn tokens_tiers_and_outcomes_that_can_not_be() {
    let refused = |text: &str| faults(&format!("upstream: http://a\n{text}")).join("\n");
    for (text, part) in [
        ("limits: [1/s by jwt.sub]", "whom to believe"),
        ("limits: []\nexempt: [{not: {jwt: {a: b}}}]", "whom to believe"),
        ("jwt: {}\nlimits: []", "the keys are missing"),
        ("jwt: {issuer: ftp://a}\nlimits: []", "is no URL"),
        (
            "jwt: {jwks_url: https://a, jwks_file: b}\nlimits: []",
            "jwks_url and jwks_file stand beside each other",
        ),
        ("jwt: {jwks_file: nowhere.json}\nlimits: []", "nowhere.json"),
        ("jwt: {public_key_file: contract.yaml}\nlimits: []", "no public key in PEM"),
        ("jwt: {secret_env: NONE}\nlimits: []", "is not set"),
        ("jwt: {secret_env: BURST}\nlimits: []", "fewer than 32 bytes"),
        ("limits: [{name: a, tiers: {by: host, x: {rate: 1/s}}}]", "nothing is said about those in no tier"),
        ("limits: [{name: a, rate: 1/s, tiers: {by: host, x: {rate: 1/s}, default: y}}]", "there is no tier"),
        ("limits: [{name: a, rate: 1/s, tiers: {by: host, x: {}}}]", "gives nothing"),
        ("limits: [{name: a, rate: 1/s, count: {}}]", "says nothing"),
        ("limits: [{name: a, rate: 1/s, count: {status: 6xx}}]", "is not a status"),
        ("limits: [{name: a, rate: 1/s, count: {status: 99}}]", "is not a status"),
        ("limits: [{name: a, rate: 1/s, count: {grpc_status: 17}}]", "17"),
        ("limits: [{name: a, concurrency: 1, count: {status: 401}}]", "gives all back"),
        ("limits: [{name: a, rate: 1/s, cost: {actual: {response_header: x}}}]", "reserve is missing"),
        ("limits: [{name: a, rate: 1/s, cost: {reserve: 1}}]", "actual is missing"),
        (
            "limits: [{name: a, rate: 2/s, cost: {reserve: 3, actual: {response_header: x}}}]",
            "could never be admitted",
        ),
    ] {
        let faults = refused(text);
        assert!(faults.contains(part), "{text}\n{faults}");
    }
}

#[test]
fn unknown_words_are_told_with_the_nearest() {
    assert_faults(
        &faults(
            "\
lisen: 127.0.0.1:8080
upstream: http://127.0.0.1:9000
clientip: {}
limits:
  - {nam: a, rat: 1/s, kye: client.ip}
  - {name: b, rate: 1/s, match: {pth: /a, heders: {}}, mode: shadw, algorithm: sliding-window}
response: {staus: 429, headers: ieft}
zzz: 1
<<: {a: 1}
",
        ),
        &[
            "1:1: lisen: there is no such field (did you mean listen?)",
            "3:1: clientip: there is no such field (did you mean client_ip?)",
            "5:5: limits[0]: name is missing",
            "5:5: limits[0]: rate is missing (write rate: 100/s, say, or concurrency: 4)",
            "5:6: limits[0].nam: there is no such field (did you mean name?)",
            "5:14: limits[0].rat: there is no such field (did you mean rate?)",
            "5:24: limits[0].kye: there is no such field (did you mean key?)",
            "6:34: limits[1].match.pth: there is no such field (did you mean path?)",
            "6:43: limits[1].match.heders: there is no such field (did you mean headers?)",
            r#"6:62: limits[1].mode: there is no "shadw" (did you mean shadow?)"#,
            r#"6:80: limits[1].algorithm: there is no "sliding-window" (did you mean sliding_window?)"#,
            "7:12: response.staus: there is no such field (did you mean status?)",
            r#"7:33: response.headers: there is no "ieft" (did you mean ietf?)"#,
            "8:1: zzz: there is no such field (there are: listen, admin, upstream, upstreams, store, client_ip, \
             exempt, limits, response, log, server, jwt, rls)",
            "9:1: <<: there is no such field (YAML 1.2 has no merge keys; an alias can stand for a whole value)",
        ],
    );
}

const A_COUNT: &str = "a whole number from 1 to 4294967295";

#[test]
fn values_of_the_wrong_kind() {
    let a_duration = "write a whole number and a unit, such as 50ms, 5s, 1m or 2h, a year at most";
    let a_network = "write a network such as 10.0.0.0/8 or 2001:db8::/32, or an address";
    let expected = [
        "1:9: listen: address is missing",
        "1:10: listen.port: there is no such field (there are: address, tls, proxy_protocol)",
        r#"2:8: admin: "8080" is not an address to listen on (write an IP address and a port, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080)"#,
        "3:11: upstream: a list is not a URL",
        r#"5:5: limits[0]: "5" is not a rate (write 5/s, or 5 at once)"#,
        "6:5: limits[1]: a list is not a word or a section",
        "7:11: limits[2].name: a list is not a name of a limit: write 1 to 64 of A-Z a-z 0-9 _ . -",
        "8:11: limits[2].rate: a section is not a rate",
        &format!(r#"9:12: limits[2].burst: "1.5" is not {A_COUNT}"#),
        r#"10:11: limits[3].name: "a b" is not a name of a limit: write 1 to 64 of A-Z a-z 0-9 _ . -"#,
        r#"11:11: limits[3].rate: "0" is not a count: a whole number from 1 to 4294967295"#,
        &format!(r#"12:12: limits[3].burst: "7" is text, not {A_COUNT} (write it without quotes)"#),
        "13:21: limits[4].rate: a rate is at most 10000000/s",
        r#"13:39: limits[4].cost: "-1" is not a whole number from 0 to 4294967295"#,
        "14:21: limits[5].rate: the period of a rate is a whole number of seconds, at least 1 s and at most ten years",
        r#"14:38: limits[5].cost: "99999999999" is not a whole number from 0 to 4294967295"#,
        "15:19: limits[6].rate: has no value (give it one, or leave it out)",
        "15:30: limits[6].burst: has no value (give it one, or leave it out)",
        "15:38: limits[6].key: an empty list (leave the field out)",
        r#"16:19: server.threads: "0" is not a whole number from 1 to 1024"#,
        &format!(r#"16:39: server.max_connections: "0" is not {A_COUNT}"#),
        &format!(r#"16:49: server.drain: "5" is not a duration ({a_duration})"#),
        "16:69: server.timeouts.head: nothing is done in no time: write at least 1ms",
        &format!(r#"16:79: server.timeouts.idle: "-1s" is not a duration ({a_duration})"#),
        r#"17:20: response.status: "200" is not a whole number from 400 to 599"#,
        r#"17:39: response.retry_jitter: "NaN" is not a number from 0 to 1"#,
        r#"17:52: response.expose: "yes" is not true or false"#,
        r#"17:63: response.body: there is no "html" (problem, text)"#,
        r#"18:17: log.requests: there is no "some" (off, denied, all)"#,
        "18:31: log.sample: 20/min is not a number of lines in a second, such as 20/s",
        r#"18:45: log.keys: there is no "1" (hash, plain, off)"#,
        r#"19:8: store: there is no "redis" (memory)"#,
        &format!(r#"20:31: client_ip.trusted_proxies[0]: "10.0.0.0/33" is not a network ({a_network})"#),
        &format!(r#"20:44: client_ip.trusted_proxies[1]: "nobody" is not a network ({a_network})"#),
        r#"20:59: client_ip.hops: "0" is not a whole number from 1 to 255"#,
        r#"20:70: client_ip.header: "x y" is not a name of a header field"#,
        r#"20:90: client_ip.ipv6_prefix: "47" is not a whole number from 48 to 128"#,
        "21:10: exempt[0]: all requests would be exempt: say which",
        r#"21:21: exempt[1].path: "a": a path pattern starts with /"#,
        "21:35: exempt[2].methods: an empty list (leave the field out)",
    ];
    let text = r#"listen: {port: 1}
admin: 8080
upstream: [a]
limits:
  - 5
  - [a]
  - name: [x]
    rate: {a: 1}
    burst: 1.5
  - name: a b
    rate: 0/s
    burst: "7"
  - {name: c, rate: 11000000/s, cost: -1}
  - {name: d, rate: 1/4000day, cost: 99999999999}
  - {name: e, rate: , burst: ~, key: []}
server: {threads: 0, max_connections: 0, drain: 5, timeouts: {head: 0s, idle: -1s}}
response: {status: 200, retry_jitter: NaN, expose: yes, body: html}
log: {requests: some, sample: 20/min, keys: 1}
store: redis
client_ip: {trusted_proxies: [10.0.0.0/33, nobody], hops: 0, header: "x y", ipv6_prefix: 47}
exempt: [{}, {path: a}, {methods: []}]
"#;
    assert_faults(&faults(text), &expected);
}

#[test]
fn limits_whose_parts_do_not_go_together() {
    for (limit, expected) in [
        ("{name: b}", "5: limits[0]: rate is missing (write rate: 100/s, say, or concurrency: 4)"),
        (
            "{name: c, rate: 1/s, concurrency: 4}",
            "21: limits[0].rate: concurrency has no rate (make it a limit of its own)",
        ),
        (
            "{name: d, concurrency: 4, algorithm: token_bucket}",
            "42: limits[0].algorithm: token_bucket stands beside concurrency (concurrency is an algorithm of its own: \
             write one of them)",
        ),
        (
            "{name: e, algorithm: concurrency}",
            "26: limits[0].algorithm: how many at once is missing (write concurrency: 4, say)",
        ),
        (
            "{name: f, rate: 1/s, burst: 2, algorithm: sliding_window}",
            "33: limits[0].burst: sliding_window has no burst (only token_bucket has one)",
        ),
        (
            "{name: g, rate: 1/month}",
            "21: limits[0].rate: token_bucket has no month (only fixed_window counts by the month)",
        ),
        (
            "{name: h, rate: 1/s, timezone: Europe/Berlin}",
            "36: limits[0].timezone: token_bucket has no time zone (only fixed_window follows a calendar)",
        ),
        (
            "{name: i, rate: 1/day, algorithm: fixed_window, timezone: Europe/Berlim}",
            r#"63: limits[0].timezone: there is no time zone "Europe/Berlim"; write one such as Europe/Berlin"#,
        ),
        (
            "{name: j, rate: 1/day, burst: 100000}",
            "35: limits[0].burst: at 1/day a burst of 100000 (with the debt) would take 274 years to refill, more than 36",
        ),
        (
            "{name: k, rate: 5/s, cost: 6}",
            "32: limits[0].cost: a cost of 6 could never be admitted: the limit holds 5 at most",
        ),
        (
            "{name: l, rate: 5/s, cost: client.ip}",
            "32: limits[0].cost: client.ip can't say what a request costs (write a number, header.NAME or query.NAME)",
        ),
        (
            "{name: m, rate: 5/s, cost: {actual: {response_header: x}}}",
            "32: limits[0].cost: reserve is missing (write reserve: 500, say, or overdraft: true to hold nothing)",
        ),
        (
            "{name: m, rate: 5/s, key: {first: []}}",
            "39: limits[0].key.first: an empty list (leave the field out)",
        ),
        ("{name: m, rate: 5/s, key: {}}", "31: limits[0].key: first is missing"),
        ("{name: m, rate: 5/s, key: [host, host]}", "38: limits[0].key[1]: host is part of the key already"),
        (
            "{name: n, rate: 5/s, key: path.a}",
            r#"31: limits[0].key: the path of match captures no "a" (write match: {path: "/{a}/**"}, say)"#,
        ),
        (
            "{name: n, rate: 5/s, key: path.resorce, match: {path: '/{resource}'}}",
            r#"31: limits[0].key: the path of match captures no "resorce" (did you mean path.resource?)"#,
        ),
        (
            "{name: n, rate: 5/s, key: {first: [host, path.x]}, match: {path: '/{a}/{b}'}}",
            r#"46: limits[0].key.first[1]: the path of match captures no "x" (did you mean path.a?)"#,
        ),
        (
            "{name: o, rate: 5/s, overrides: [{key: a, deny: true}]}",
            "37: limits[0].overrides: the limit has no key (overrides choose by it: give the limit one)",
        ),
        (
            "{name: o, rate: 5/s, missing: drop}",
            r#"35: limits[0].missing: there is no "drop" (share, skip, deny)"#,
        ),
        (
            "{name: p, rate: 5/s, match: {host: 'a:80'}}",
            "40: limits[0].match.host: a host is matched without its port",
        ),
        (
            "{name: p, rate: 5/s, match: {headers: {A: x, a: y}}}",
            "50: limits[0].match.headers.a: stands here a second time: names of fields have no case",
        ),
        (
            "{name: p, rate: 5/s, match: {headers: {x y: a}}}",
            r#"44: limits[0].match.headers.x y: "x y" is not a name of a header field"#,
        ),
        (
            "{name: p, rate: 5/s, match: {query: {}}}",
            "41: limits[0].match.query: an empty section (leave the field out)",
        ),
        (
            "{name: p, rate: 5/s, match: {not: {}}}",
            "39: limits[0].match.not: an empty section: it leaves no request to be meant",
        ),
        (
            "{name: p, rate: 5/s, match: {methods: get}}",
            r#"43: limits[0].match.methods: "get" is not a method (did you mean GET?)"#,
        ),
        (
            "{name: p, rate: 5/s, match: {client_ip: 10.0.0.0.0/8}}",
            r#"45: limits[0].match.client_ip: "10.0.0.0.0/8" is not a network (write a network such as 10.0.0.0/8 or 2001:db8::/32, or an address)"#,
        ),
        (
            "5/min by path.x on /{y}",
            r#"14: limits[0]: the path of match captures no "x" (did you mean path.y?)"#,
        ),
        ("'5/min burst 0'", r#"18: limits[0]: "0" is not a whole number of at least 1"#),
        (
            "1/month by host",
            "5: limits[0].rate: token_bucket has no month (only fixed_window counts by the month)",
        ),
    ] {
        let expected = format!("3:{expected}").replace("3:5: limits[0].rate: token", "3:5: limits[0]: token");
        assert_faults(&of_limits(&format!("  - {limit}\n")), &[&expected]);
    }
}

#[test]
fn overrides_that_do_not_fit_their_limit() {
    let give = "write rate (with burst, if it is to differ), concurrency, unlimited: true or deny: true";
    let of = |limit: &str, entry: &str| of_limits(&format!("  - {limit}\n    overrides:\n      - {entry}\n"));
    let limit = "name: a\n    rate: 5/s\n    cost: 3\n    key: client.ip";
    for (entry, expected) in [
        (
            "{key: a, rate: 2/s}",
            "8:9: limits[0].overrides[0]: a cost of 3 could never be admitted: the override holds 2 at most",
        ),
        (
            "{key: [a, b], deny: true}",
            "8:15: limits[0].overrides[0].key: 2 parts given, but the key has 1 part (write one pattern for each part; \
             \"*\" fits any)",
        ),
        ("{key: c}", &format!("8:9: limits[0].overrides[0]: gives nothing ({give})")),
        (
            "{key: d, deny: true, unlimited: true}",
            &format!("8:9: limits[0].overrides[0]: gives unlimited and deny at once ({give})"),
        ),
        (
            "{key: e, deny: false}",
            "8:24: limits[0].overrides[0].deny: false says nothing (leave the field out)",
        ),
        (
            "{key: f, concurrency: 2}",
            "8:31: limits[0].overrides[0].concurrency: the limit is of the kind token_bucket: it has no concurrency",
        ),
        ("{rate: 3/s}", "8:9: limits[0].overrides[0]: key is missing"),
        (
            "{key: g, rate: 3/x}",
            "8:24: limits[0].overrides[0].rate: there is no unit \"x\"; did you mean \"s\"? The \
             units are s, min, h, day, week and month",
        ),
    ] {
        assert_faults(&of(limit, entry), &[expected]);
    }
    let limit = "name: a\n    rate: 5/s\n    algorithm: sliding_window\n    key: client.ip";
    assert_faults(
        &of(limit, "{key: a, burst: 2}"),
        &["8:25: limits[0].overrides[0].burst: sliding_window has no burst (only token_bucket has one)"],
    );
    let limit = "name: a\n    concurrency: 5\n    key: client.ip";
    assert_faults(
        &of(limit, "{key: a, rate: 5/s}"),
        &["7:24: limits[0].overrides[0].rate: the limit is of the kind concurrency: it has no rate"],
    );
}

#[test]
fn names_stand_once() {
    assert_faults(
        &of_limits(
            "  - {name: a, rate: 1/s}\n  - {name: limit-3, rate: 1/s}\n  - 1/s\n  - {name: a, rate: 1/s}\n",
        ),
        &[
            "5:5: limits[2]: \"limit-3\" is the name of the limit in line 4 already (limits of one name would share \
             their counters)",
            "6:12: limits[3].name: \"a\" is the name of the limit in line 3 already (limits of one name would share \
             their counters)",
        ],
    );
    assert_faults(
        &faults(
            "upstream: http://a\nupstream: http://u:secret@host/\nlimits: [{name: a, name: b, rate: 1/s, rate: 2/x}]",
        ),
        &[
            "2:1: upstream: stands here a second time; the first is in line 1",
            "2:11: upstream: an upstream's URL has no path, query or user: requests keep their own",
            "3:20: limits[0].name: stands here a second time; the first is in line 3",
            "3:40: limits[0].rate: stands here a second time; the first is in line 3",
            "3:46: limits[0].rate: there is no unit \"x\"; did you mean \"s\"? The units are s, min, h, day, week and \
             month",
        ],
    );
}

#[test]
fn upstreams_and_addresses() {
    assert_faults(
        &faults(
            "upstream: http://a\nupstreams: []\nlimits: []\nlisten: [127.0.0.1:80, 127.0.0.1:80]\nadmin: 127.0.0.1:80",
        ),
        &[
            "2:12: upstreams: stands beside upstream (upstream is short for one entry of upstreams: write one of them)",
            "2:12: upstreams: an empty list: requests must go somewhere",
            "4:24: listen[1]: 127.0.0.1:80 is taken already, in line 4",
            "5:8: admin: 127.0.0.1:80 is taken already, in line 4",
        ],
    );
    assert_faults(
        &faults("upstream: http://a\nlimits: []\nlisten: 127.0.0.1:9090"),
        &[
            "3:9: listen: 127.0.0.1:9090 is where operators connect unless admin says otherwise (write another address \
           for admin, or off)",
        ],
    );
    assert_faults(
        &faults("log: {}"),
        &[
            "1:1: upstream is missing (write where requests go, such as upstream: http://127.0.0.1:9000)",
            "1:1: limits is missing (write limits: [] where nothing is to be limited)",
        ],
    );
    for (url, expected) in [
        (
            "127.0.0.1:9000",
            "the scheme of an upstream is http, https or h2c (write one such as http://127.0.0.1:9000)",
        ),
        ("http://a/b", "an upstream's URL has no path, query or user: requests keep their own"),
        ("a b", "this is no URL; write one such as http://127.0.0.1:9000"),
    ] {
        let expected = format!("2:11: upstream: {expected}");
        assert_faults(&faults(&format!("limits: []\nupstream: {url}")), &[&expected]);
    }
    // All requests may be said in words.
    for (rest, expected) in [
        ("servers: []", "upstreams[0].servers: an empty list"),
        ("servers: [http://a, http://a:80]", "http://a:80 stands in line 2 already"),
        ("servers: http://a, balance: {hash: []}", "upstreams[0].balance.hash: an empty list"),
        ("servers: http://a, balance: {hash: path.id}", "the path of match captures no \"id\""),
        ("servers: http://a, balance: {hash: jwt.sub}", "whom to believe"),
        ("servers: http://a, balance: best", "best"),
        ("servers: http://a, retries: 11", "a whole number from 0 to 10"),
        ("servers: http://a, health_check: {}", "path is missing"),
        ("servers: http://a, health_check: {path: healthz}", "is not a path"),
        ("servers: http://a, health_check: {path: /, interval: 0s}", "nothing is done in no time"),
        ("servers: http://a, timeout: {connect: 0s}", "nothing is done in no time"),
        ("servers: http://a, tls: {}", "no server is spoken to with TLS"),
        ("servers: https://a, tls: {cert: contract.yaml}", "needs key beside it"),
        ("servers: https://a, tls: {ca: nowhere.pem}", "can't read"),
        ("servers: https://a, tls: {ca: contract.yaml}", "no certificates of authorities in PEM"),
        ("servers: https://a, tls: {server_name: 'a b'}", "no name of a host"),
        ("servers: https://a, tls: {cert: contract.yaml, key: contract.yaml}", "no private key in PEM"),
    ] {
        let found = faults(&format!("limits: []\nupstreams: [{{{rest}}}]")).join("\n");
        assert!(found.contains(expected), "{rest}\n{found}");
    }
    loads("upstreams: [{match: {path: /**}, servers: http://a}]\nlimits: []");
    loads(
        "upstreams: [{servers: [https://a, h2c://b, http://c], tls: {server_name: x.example}}]\nlimits: []",
    );
    loads("upstreams: [{match: {}, servers: [http://a]}]\nlimits: []");
    loads("upstream: http://a\nlisten: [127.0.0.1:0, 127.0.0.1:0]\nlimits: []");
}

/// A sound configuration with that store, whose section begins in line 3.
fn with_store(text: &str) -> String {
    format!("upstream: http://127.0.0.1:9000\nlimits: []\nstore:\n{text}")
}

fn redis(text: &str) -> RedisConfig {
    match loads(&with_store(text)).config.store {
        StoreConfig::Redis(redis) => *redis,
        store => panic!("{store:?}"),
    }
}

#[test]
fn a_shared_store() {
    let plain = redis("  redis: redis://127.0.0.1:6379");
    assert_eq!(plain.servers.to_string(), "redis://127.0.0.1:6379");
    assert_eq!((plain.deadline, plain.on_failure), (Duration::from_millis(50), OnFailure::Local));
    assert_eq!((plain.replicas, &*plain.prefix, plain.required_for_ready), (None, "rl", false));

    let all = redis(
        "  redis: [rediss://a:1, rediss://b:2]
  consistency: leased
  lease_horizon: 25%
  deadline: 20ms
  on_failure: deny
  replicas: 4
  prefix: shop.
  username: ann
  password_file: denied.html
  tls: {ca: denied.html, cert: denied.html, key: denied.html}
  permit_expiry: 5s
  required_for_ready: true
",
    );
    assert_eq!((plain.leases, all.leases), (None, Some(Policy::horizon_of(256))));
    assert!(matches!(&all.servers, Servers::Nodes(nodes) if nodes.len() == 2), "{:?}", all.servers);
    assert_eq!((all.deadline, all.on_failure), (Duration::from_millis(20), OnFailure::Deny));
    assert_eq!((all.replicas, &*all.prefix, all.username.as_deref()), (Some(4), "shop.", Some("ann")));
    let file = here().join("denied.html");
    assert_eq!(all.password_file.as_ref(), Some(&file));
    assert_eq!(all.tls_authority.as_ref(), Some(&file));
    assert_eq!(all.tls_identity, Some((file.clone(), file)));
    assert_eq!((all.permit_expiry, all.required_for_ready), (Duration::from_secs(5), true));

    let sentinels =
        redis("  redis: {sentinels: [redis://:secret@a:1, redis://b], master: m}\n  on_failure: allow");
    assert_eq!(sentinels.servers.to_string(), "m of redis://a:1, redis://b");
    assert!(!format!("{sentinels:?}").contains("secret"));
}

/// Row 9: an address may hold a password, and no fault repeats it.
#[test]
fn a_shared_store_that_can_not_be() {
    let url = "write one such as redis://127.0.0.1:6379, rediss://user:password@host:6380/0 or \
               unix:///run/redis.sock, with special characters of a password as %XX";
    for (text, expected) in [
        (
            "  redis: 127.0.0.1:6379",
            vec![format!("4:10: store.redis: the scheme of a store must be redis, rediss (TLS) or unix ({url})")],
        ),
        (
            "  redis: [redis://a, 'redis://:se#cret@b:x']",
            vec![format!("4:22: store.redis[1]: the address of the store can't be read ({url})")],
        ),
        (
            "  redis: redis://a\n  memory: {max_keys: 5}",
            vec!["5:11: store.memory: stands beside redis (counters live in one of them: leave one out)".to_owned()],
        ),
        (
            "  deadline: 5ms\n  tls: {}\n  on_failure: deny",
            ["4:13: store.deadline", "5:8: store.tls", "6:15: store.on_failure"]
                .map(|place| format!("{place}: means nothing without redis"))
                .to_vec(),
        ),
        (
            "  redis: redis://a\n  deadline: 0s\n  permit_expiry: 500ms\n  prefix: 'rl:*'\n  replicas: 0\n  on_failure: lokal",
            vec![
                "5:13: store.deadline: nothing is done in no time: write at least 1ms".to_owned(),
                "6:18: store.permit_expiry: permits would lapse before they can be renewed: write at least 1s".to_owned(),
                "7:11: store.prefix: \"rl:*\" is not a prefix: write 1 to 64 of A-Z a-z 0-9 _ . - :".to_owned(),
                "8:13: store.replicas: \"0\" is not a whole number from 1 to 4294967295".to_owned(),
                "9:15: store.on_failure: there is no \"lokal\" (did you mean local?)".to_owned(),
            ],
        ),
        (
            "  redis: redis://a\n  lease_horizon: 60%",
            vec!["5:18: store.lease_horizon: \"60%\" is no such part (write 1% to 50%, in whole numbers)".to_owned()],
        ),
        (
            "  redis: redis://a\n  consistency: strict\n  lease_horizon: 6%",
            vec!["6:18: store.lease_horizon: means nothing without consistency: leased".to_owned()],
        ),
        (
            "  redis: redis://a\n  tls: {cert: denied.html}",
            vec![
                "5:8: store.tls: has no effect: no address is encrypted (write rediss://)".to_owned(),
                "5:15: store.tls.cert: needs key beside it".to_owned(),
            ],
        ),
        (
            "  redis: [{sentinels: [redis://a], master: m}, redis://b]",
            vec!["4:11: store.redis[0]: sentinels stand alone: several of them are a list within".to_owned()],
        ),
        (
            "  redis: {sentinels: [redis://a]}",
            vec!["4:10: store.redis: master is missing".to_owned()],
        ),
    ] {
        let found = faults(&with_store(text));
        assert_faults(&found, &expected.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!found.join("").contains("cret"), "{found:?}");
    }
    let warned = loads(&with_store("  redis: redis://a\n  password_file: nowhere"));
    let warnings = lines(&warned.warnings);
    assert!(
        warnings.iter().any(|line| line.contains("5:18: store.password_file: can't read")),
        "{warnings:?}"
    );
}

#[test]
fn the_environment() {
    let text = r#"upstream: http://${NONE}
limits:
  - {name: "${WRONG}", rate: "${WRONG}", burst: "${WRONG}"}
  - {name: "${", rate: "${a b}", key: "${A:-${B}}"}
  - {name: trick, rate: "${TRICK}"}
  - {name: fine, rate: "5/${NONE:-min}", burst: "${BURST}"}
response: {expose: "${WRONG}"}
"#;
    assert_faults(
        &faults(text),
        &[
            "1:11: upstream: the variable \"NONE\" of the environment is not set (set it, or write ${NAME:-default})",
            "3:30: limits[0].rate: \"many\" is not a rate: write COUNT/UNIT, such as 100/s or 5/15min; the value comes \
             from ${WRONG}",
            "3:49: limits[0].burst: \"many\" is not a whole number from 1 to 4294967295; the value comes from ${WRONG}",
            "4:12: limits[1].name: ${ without } (write $${ where ${ is meant as it stands)",
            "4:24: limits[1].rate: \"a b\" is no name of a variable (write ${NAME} or ${NAME:-default}, and $${ where \
             ${ is meant as it stands)",
            "4:39: limits[1].key: a default can't hold another ${",
            "5:25: limits[2].rate: there is no unit \"s\\nlimits: []\"; did you mean \"s\"? The units are s, min, h, \
             day, week and month; the value comes from ${TRICK}",
            "7:20: response.expose: \"many\" is not true or false; the value comes from ${WRONG}",
        ],
    );
    let most = |_: &str| Some("x".repeat(600_000));
    let text = "upstream: http://${A}\nlimits: ['1/s as ${A}']";
    let faults = config::load_str(text, "c", &most, here()).unwrap_err();
    assert!(lines(&faults).iter().any(|line| line.contains("adds more than 1 MiB")), "{faults:?}");
}

#[test]
fn bodies_are_read_from_beside_the_file() {
    let with = |file: &str, content_type: &str| {
        faults(&format!(
            "upstream: http://a\nlimits: []\nresponse:\n  body: {{file: {file}, content_type: {content_type}}}"
        ))
    };
    let found = with("none.html", "text/html");
    assert!(
        found[0].starts_with("4:16: response.body.file: can't read ") && found[0].contains("none.html"),
        "{found:?}"
    );
    // However deep it lies, the file is named.
    let found = with(&format!("{}/none.html", "/deep".repeat(100)), "text/html");
    assert!(found[0].contains("can't read \"…") && found[0].contains("deep/none.html\""), "{found:?}");
    assert!(with("/dev/zero", "text/html")[0].ends_with("not a file"));
    assert_faults(
        &with("denied.html", r#""a\nb""#),
        &[r#"4:43: response.body.content_type: "a\nb" is not a content type (write one such as text/html)"#],
    );
    let large = std::env::temp_dir().join(format!("ratelimit-config-{}.txt", std::process::id()));
    std::fs::write(&large, vec![b'a'; (1 << 20) + 1]).unwrap();
    let found = with(&large.display().to_string(), "text/plain");
    std::fs::remove_file(&large).unwrap();
    assert!(found[0].ends_with("larger than 1 MiB"), "{found:?}");
}

#[test]
fn texts_that_are_no_configuration() {
    let empty = "1:1: the configuration is empty (it needs at least an upstream and limits)";
    for (text, expected) in [
        ("", empty),
        ("\n# nothing\n", empty),
        ("---\n", empty),
        ("~", empty),
        ("a\0b", "1:2: a zero byte: this is no text"),
        ("a: [1\nb: 2", "2:2: not YAML: illegal placement of ':' indicator"),
        ("a:\n\tb: 1", "2:2: not YAML: tabs disallowed within this context (block indentation)"),
        ("a: *b", "1:4: not YAML: while parsing node, found unknown anchor"),
        ("log: {}\n---\nlog: {}", "2:1: a second document: a configuration is one"),
        ("log: &a [1, *a]", "1:13: an alias of what it stands in"),
        ("? [a]\n: b", "1:3: the name of a field is one word, not a list or a section"),
        ("- a", "1:1: a list is not a section"),
        ("limits", "1:1: \"limits\" is not a section"),
    ] {
        assert_faults(&faults(text), &[expected]);
    }
    assert_faults(
        &faults("upstream: !url http://a\nlimits: [!!str 1/s, !!int 5]"),
        &[
            "1:11: upstream: \"!url\": a configuration has no tags".replace("upstream: ", "").as_str(),
            "2:21: \"tag:yaml.org,2002:!int\": a configuration has no tags",
            "2:21: limits[1]: \"5\" is not a rate (write 5/s, or 5 at once)",
        ],
    );
}

#[test]
fn a_file_that_would_burst_is_refused_while_it_is_small() {
    let mut bomb = "x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
    for level in 1..12 {
        let before = format!("*x{}", level - 1);
        bomb += &format!("x{level}: &x{level} [{}]\n", vec![before; 10].join(", "));
    }
    assert_faults(&faults(&bomb), &["5:45: aliases stand for more than 100000 values"]);
    let long = format!("upstream: {}", "a".repeat(1 << 20));
    let faults = load(&long).unwrap_err();
    assert_eq!(faults[0].to_string(), "c.yaml: larger than 1 MiB");
    for deep in ["[".repeat(60), "- ".repeat(100_000), "{a: ".repeat(60), "? ".repeat(60)] {
        assert!(load(&deep).is_err());
    }
    // Nothing that is shown grows with what was written.
    let key = "k".repeat(100_000);
    let faults =
        load(&format!("limits: [{{tiers: {{by: host, {key}: {{a: 1, b: 2}}}}}}]\n{key}: {key}")).unwrap_err();
    assert!(faults.iter().all(|fault| fault.to_string().len() < 700), "{faults:?}");
}

#[test]
fn what_matching_would_pay_for_has_bounds() {
    let parts: Vec<_> = (0..17).map(|number| format!("query.q{number}")).collect();
    let parts = parts.join(", ");
    assert_faults(
        &of_limits(&format!("  - {{name: a, rate: 1/s, key: [{parts}]}}\n")),
        &["3:198: limits[0].key[16]: a key has at most 16 parts"],
    );
    assert_faults(
        &of_limits(&format!("  - {{name: a, rate: 1/s, key: {{first: [{parts}]}}}}\n")),
        &["3:206: limits[0].key.first[16]: at most 16 values to choose from"],
    );
    let long = "a".repeat(1025);
    assert_faults(
        &of_limits(&format!("  - {{name: a, rate: 1/s, match: {{path: /{long}, host: {long}}}}}\n")),
        &[
            "3:40: limits[0].match.path: a pattern has at most 1024 bytes",
            "3:1074: limits[0].match.host: a pattern has at most 1024 bytes",
        ],
    );
}

#[test]
fn a_fault_is_one_line_whatever_the_file_holds() {
    let text = "\"a\\nb\\e[31m\\u202e\": 1\nupstream: http://a\nlimits: [\"1/s by a\\nb\\e\"]\n";
    for line in faults(text) {
        assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
    }
    assert!(
        faults(text)[0].starts_with(r"1:1: a\nb\u{1b}[31m\u{202e}: there is no such field"),
        "{:?}",
        faults(text)
    );
}

#[test]
fn what_is_likely_wrong_is_told_and_loads() {
    let text = r#"upstream: http://a
client_ip: {trusted_proxies: [0.0.0.0/0, "::/0", 10.1.2.3/8]}
exempt: [{path: /**}]
limits:
  - name: a
    rate: 1/s
    key: client.ip
    overrides:
      - {key: "*", rate: 2/s}
      - {key: b, deny: true}
"#;
    let found: Vec<String> = lines(&loads(text).warnings);
    assert_faults(
        &found,
        &[
            "c.yaml:2:31: client_ip.trusted_proxies[0]: everybody is trusted: any client can claim to be any other",
            "c.yaml:2:42: client_ip.trusted_proxies[1]: everybody is trusted: any client can claim to be any other",
            "c.yaml:2:50: client_ip.trusted_proxies[2]: \"10.1.2.3/8\" has bits behind its prefix; 10.0.0.0/8 is meant",
            "c.yaml:3:10: exempt[0]: all requests are exempt: nothing is limited",
            "c.yaml:10:9: limits[0].overrides[1]: is never used: one before fits every key",
        ],
    );
    let found = loads("upstream: http://a\nclient_ip: {header: forwarded}\nlimits: []").warnings;
    assert_faults(
        &lines(&found),
        &[
            "c.yaml:2:21: client_ip.header: has no effect: nobody is trusted, so the peer's address is the client's",
            "c.yaml:3:9: limits: there are no limits: nothing is limited",
        ],
    );
    let both = faults("upstream: http://a\nlimits: []\nclient_ip: {trusted_proxies: [10.0.0.0/8], hops: 1}");
    assert_faults(&both, &["3:50: client_ip.hops: stands beside trusted_proxies (write one of them)"]);
}

#[test]
fn files() {
    let place = std::env::temp_dir().join(format!("ratelimit-config-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let file = place.join("c.yaml");
    let said = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let faults = config::load_file(&file).map(|loaded| loaded.warnings).unwrap_or_else(|faults| faults);
        lines(&faults).join("\n").replace(&file.display().to_string(), "F")
    };
    assert_eq!(said(b"upstream: http://a\n# \xc3\xa9\xff\nlimits: []"), "F:2:4: not UTF-8: this is no text");
    assert_eq!(said(&vec![b'#'; (1 << 20) + 1]), "F: can't read it: larger than 1 MiB");
    assert_eq!(said("\u{feff}upstream: http://a\nlimits: [1/s]".as_bytes()), "");
    // Files that it names stand beside it.
    std::fs::write(place.join("body.txt"), "no").unwrap();
    let with_body =
        b"upstream: http://a\nlimits: [1/s]\nresponse: {body: {file: body.txt, content_type: text/plain}}";
    assert_eq!(said(with_body), "");
    std::fs::remove_dir_all(&place).unwrap();
    let faults = config::load_file(&file).unwrap_err();
    assert_eq!((faults.len(), faults[0].line), (1, 0));
    assert!(faults[0].to_string().contains("can't read it: No such file"), "{}", faults[0]);
}

/// Whatever is read, it comes to a configuration or to faults that stand in the text, each on one line.
fn holds(text: &str) {
    let Err(faults) = load(text) else { return };
    assert!(!faults.is_empty(), "{text:?}");
    let most = text.matches(['\n', '\r']).count() + 2;
    for fault in &faults {
        assert!(fault.line as usize <= most, "{fault} of {text:?}");
        assert!(!fault.to_string().contains(['\n', '\r', '\u{1b}']), "{fault:?}");
    }
    assert!(faults.is_sorted_by_key(|fault| (fault.line, fault.column)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 300 }))]

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        holds(&text);
    }

    #[test]
    fn any_yaml_is_read_or_refused(pieces in proptest::collection::vec(
        prop_oneof![
            Just("limits"), Just("name"), Just("rate"), Just("key"), Just("match"), Just("not"), Just("upstream"),
            Just(": "), Just("\n"), Just("\n  "), Just("\n  - "), Just("["), Just("]"), Just("{"), Just("}"), Just(", "),
            Just("&a "), Just("*a"), Just("\""), Just("'"), Just("1/s"), Just("client.ip"), Just("${BURST}"), Just("${"),
            Just("|\n"), Just(">-\n "), Just("? "), Just("!!str "), Just("# "), Just("~"), Just("\t"), Just("é"),
        ], 0..60)) {
        holds(&pieces.concat());
    }

    #[test]
    fn any_change_of_a_good_file_is_read_or_refused(
        living in any::<bool>(), at in any::<prop::sample::Index>(), length in 0usize..12, put in "[\\PC\n\t]{0,6}",
    ) {
        let text = if living { LIVING } else { CONTRACT };
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let start = *at.get(&places);
        let end = text[start..].char_indices().nth(length).map_or(text.len(), |(at, _)| start + at);
        holds(&format!("{}{put}{}", &text[..start], &text[end..]));
    }

    #[test]
    fn any_line_is_a_limit_or_refused(text in "\\PC{0,40}", number in 1usize..100) {
        for text in [text.clone(), format!("5/min by {text} on {text} as {text}")] {
            if let Err(error) = config::limit_from_short(&text, number) {
                prop_assert!((1..=text.chars().count() + 1).contains(&(error.column as usize)), "{error:?} of {text:?}");
            }
        }
    }
}
