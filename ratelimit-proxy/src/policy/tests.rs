use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ratelimit_core::{Limit, Rate};

use super::*;
use crate::config::words::{Glob, KeyPart, Source};
use crate::config::{Cost, Missing, Override, Quota};

/// A request that facts are borrowed from.
struct Asked {
    method: Method,
    path: &'static str,
    query: &'static str,
    headers: HeaderMap,
    client: IpAddr,
}

fn asked(
    method: Method,
    path: &'static str,
    query: &'static str,
    lines: &[(&'static str, &'static str)],
) -> Asked {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_static(value));
    }
    Asked { method, path, query, headers, client: IpAddr::from([192, 0, 2, 1]) }
}

impl Asked {
    fn facts(&self) -> Facts<'_> {
        Facts {
            method: &self.method,
            host: "api.example.com",
            path: self.path,
            query: self.query,
            headers: &self.headers,
            client: self.client,
            claims: None,
            descriptor: None,
            tls_client: None,
        }
    }
}

/// The key of a request by itself.
fn encoded(rule: &Rule, asked: &Asked) -> KeyBuf {
    let mut keys = KeyBuf::new();
    super::key::write(&rule.key.read(&asked.facts()).unwrap(), &mut keys);
    keys
}

fn limit(name: &str) -> LimitConfig {
    LimitConfig::new(Limit::new(name, Rate::per_second(10)))
}

fn key(words: &[&str]) -> Vec<KeyPart> {
    words.iter().map(|word| KeyPart::One(word.parse().unwrap())).collect()
}

fn about(path: &str) -> Match {
    Match { path: Some(path.parse().unwrap()), ..Match::default() }
}

fn policy(limits: &[LimitConfig]) -> Policy {
    Policy::build(&ClientIp::default(), &[], limits)
}

fn plan() -> LimitConfig {
    let to = |pattern: &str, quota| Override { key: vec![Glob::new(pattern), Glob::new("*")], quota };
    let gold = limit("plan").limit.with_quota(Rate::per_second(99), None).unwrap();
    LimitConfig {
        matches: about("/v1/{resource}/**"),
        key: key(&["header.x-api-key", "path.resource"]),
        cost: Cost::Value { source: "header.x-cost".parse().unwrap(), default: 1 },
        overrides: vec![
            to("gold", Quota::Limit(gold)),
            to("internal", Quota::Unlimited),
            to("stolen", Quota::Deny),
        ],
        ..limit("plan")
    }
}

#[test]
fn overrides_and_costs() {
    let policy = policy(&[plan(), LimitConfig::by_client(Limit::new("all", Rate::per_second(1)))]);
    let ask = |key: &'static str, cost: &'static str| {
        let asked = asked(Method::GET, "/v1/a%20b/x", "", &[("x-api-key", key), ("x-cost", cost)]);
        let mut keys = KeyBuf::new();
        match policy.select(&asked.facts(), &mut keys) {
            Ok(selection) => {
                let hits = selection.hits.iter();
                hits.map(|hit| format!("{} {} {}", hit.limit.name(), hit.limit.capacity(), hit.cost))
                    .collect()
            }
            Err(Refusal::Denied(by)) => by.iter().map(|(rule, _)| format!("denied by {rule}")).collect(),
            Err(Refusal::AmbiguousKey { rule }) => vec![format!("ambiguous key for {rule}")],
            Err(Refusal::BadCost { rule }) => vec![format!("bad cost for {rule}")],
        }
    };
    assert_eq!(ask("tin", "5"), ["plan 10 5", "all 1 1"]);
    assert_eq!(ask("gold", "0"), ["plan 99 0", "all 1 1"]);
    assert_eq!(ask("internal", "x"), ["all 1 1"]);
    assert_eq!(ask("stolen", "1"), ["denied by 0"]);
    assert_eq!(ask("tin", "-1"), ["bad cost for 0"]);
}

#[test]
fn missing_values_share_or_skip_or_deny() {
    let none = asked(Method::GET, "/", "", &[]);
    for (missing, effect) in
        [(Missing::Share, Effect::Counts), (Missing::Skip, Effect::Skips), (Missing::Deny, Effect::Denies)]
    {
        let rule = LimitConfig { key: key(&["header.x-api-key"]), missing, ..limit("a") };
        let explanation = policy(&[rule]).explain(&none.facts(), &mut KeyBuf::new());
        assert_eq!(explanation.limits[0].effect, effect);
    }
    // A shadow limit denies nothing, whatever is missing.
    let rule = LimitConfig {
        key: key(&["query.q"]),
        missing: Missing::Deny,
        ..LimitConfig::new(limit("a").limit.shadow())
    };
    let policy = policy(&[rule]);
    let selection = policy.select(&none.facts(), &mut KeyBuf::new()).unwrap();
    assert_eq!((selection.hits.len(), &*selection.shadowed), (0, &[0][..]));
}

#[test]
fn the_source_that_won_is_part_of_the_key() {
    let sources = ["header.a", "header.b"].map(|word| word.parse::<Source>().unwrap());
    let rule = LimitConfig { key: vec![KeyPart::First(sources.to_vec())], ..limit("a") };
    let rule = Rule::new(&rule, 64);
    let bytes = |lines| encoded(&rule, &asked(Method::GET, "/", "", lines));
    assert_ne!(bytes(&[("a", "x")]), bytes(&[("b", "x")]));
    assert_eq!(bytes(&[("a", "x"), ("b", "y")]), bytes(&[("a", "x")]));
}

#[test]
fn where_a_request_has_two_readings_the_one_that_limits_counts() {
    let plan = |value: &str| Match {
        headers: vec![(HeaderName::from_static("plan"), Glob::new(value))],
        query: vec![("p".to_owned(), Glob::new("1"))],
        ..Match::default()
    };
    let twice = asked(Method::GET, "/", "p=1&p=2", &[("plan", "free"), ("plan", "gold")]);
    let limits = LimitConfig { matches: plan("free"), ..limit("a") };
    assert_eq!(policy(&[limits]).select(&twice.facts(), &mut KeyBuf::new()).unwrap().hits.len(), 1);
    let exempting = Policy::build(&ClientIp::default(), &[plan("gold")], &[limit("a")]);
    assert!(!exempting.select(&twice.facts(), &mut KeyBuf::new()).unwrap().exempt);
    let once = asked(Method::GET, "/", "p=1", &[("plan", "gold")]);
    assert!(exempting.select(&once.facts(), &mut KeyBuf::new()).unwrap().exempt);
}

#[test]
fn what_is_off_is_listed_and_nothing_else() {
    let off = LimitConfig { off: true, matches: about("/x"), key: key(&["header.x-k"]), ..limit("a") };
    let policy = policy(&[off]);
    assert!(!policy.path_scoped() && !policy.is_key(&HeaderName::from_static("x-k")));
    let rule = &policy.rules()[0];
    assert_eq!(
        (rule.mode(), rule.key().to_string(), rule.matches().to_string()),
        (RuleMode::Off, "header.x-k".to_owned(), "/x".to_owned())
    );
}
