use sfv::{BareItem, List, ListEntry, Parser};

use http::header::ACCESS_CONTROL_EXPOSE_HEADERS;

use super::*;
use crate::algorithm::Outcome;
use crate::limit::Algorithm;
use crate::store::{Origin, Verdict};

fn limit(name: &str, rate: &str) -> Limit {
    Limit::new(name, rate.parse().unwrap())
}

fn decided<'l>(parts: &[(&'l Limit, Outcome)]) -> Decision<'l> {
    let admitted = parts.iter().all(|(limit, outcome)| outcome.admitted || limit.is_shadow());
    let outcomes = parts.iter().map(|(_, outcome)| *outcome).collect();
    let verdict = Verdict { admitted, origin: Origin::Store, outcomes };
    Decision::new(parts.iter().map(|(limit, _)| *limit), verdict)
}

fn left(units: u32, reset_seconds: u64) -> Outcome {
    Outcome::admitted(units).with_reset_after(Nanos::from_secs(reset_seconds))
}

fn refused(retry: Nanos) -> Outcome {
    Outcome::refused(0, Some(retry)).with_reset_after(retry.saturating_add(Nanos::from_secs(60)))
}

fn written(fields: Fields, decision: &Decision<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    fields.write(decision, Nanos::from_secs(1_700_000_000), &mut headers);
    headers
}

fn fields(style: FieldStyle) -> Fields {
    Fields { style, expose: false, ..Fields::default() }
}

/// The members as a strict parser reads them: the name, and each parameter's key with its value as text.
fn read(headers: &HeaderMap, field: HeaderName) -> Vec<(String, Vec<(String, String)>)> {
    let lines: Vec<_> = headers.get_all(&field).iter().map(|line| line.to_str().unwrap()).collect();
    assert_eq!(lines.len(), 1, "{field} is one line");
    let list: List = Parser::new(lines[0]).parse().unwrap_or_else(|error| panic!("{}: {error}", lines[0]));
    list.into_iter()
        .map(|member| {
            let ListEntry::Item(item) = member else { panic!("an inner list in {}", lines[0]) };
            let BareItem::String(name) = item.bare_item else { panic!("no string in {}", lines[0]) };
            let text = |value: &BareItem| match value {
                BareItem::Integer(number) => number.to_string(),
                BareItem::String(text) => text.as_str().to_owned(),
                other => panic!("{other:?}"),
            };
            let parameters = item.params.iter().map(|(key, value)| (key.as_str().to_owned(), text(value)));
            (name.as_str().to_owned(), parameters.collect())
        })
        .collect()
}

fn member(name: &str, parameters: &[(&str, &str)]) -> (String, Vec<(String, String)>) {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    (name.to_owned(), parameters.iter().map(own).collect())
}

#[test]
fn all_limits_in_the_policy_and_the_most_constrained_in_the_state() {
    let (client, login) = (limit("per-client", "100/s").burst(200), limit("login", "5/min"));
    let headers =
        written(fields(FieldStyle::Ietf), &decided(&[(&client, left(199, 1)), (&login, left(3, 24))]));
    assert_eq!(headers[RATELIMIT_POLICY], r#""per-client";q=200;w=2, "login";q=5;w=60"#);
    assert_eq!(headers[RATELIMIT], r#""login";r=3;t=24"#);
    assert_eq!(
        read(&headers, RATELIMIT_POLICY),
        [member("per-client", &[("q", "200"), ("w", "2")]), member("login", &[("q", "5"), ("w", "60")])]
    );
    assert_eq!(read(&headers, RATELIMIT), [member("login", &[("r", "3"), ("t", "24")])]);
    assert_eq!(headers.len(), 2);
}

#[test]
fn a_denial_says_the_longest_wait_rounded_up() {
    let (client, login) = (limit("per-client", "100/s"), limit("login", "5/min"));
    let decision =
        decided(&[(&client, refused(Nanos::new(10_000_000))), (&login, refused(Nanos::new(24_000_000_001)))]);
    let headers = written(fields(FieldStyle::Ietf), &decision);
    assert_eq!(headers[RATELIMIT], r#""login";r=0;t=25"#);
    assert_eq!(headers[RETRY_AFTER], "25");

    let soon = decided(&[(&client, refused(Nanos::new(1)))]);
    assert_eq!(Fields::retry_after(&soon), Some(1));
    assert_eq!(written(fields(FieldStyle::None), &soon).len(), 1, "Retry-After is told whatever the style");
    assert_eq!(Fields::retry_after(&decided(&[(&client, left(1, 1))])), None);
    assert_eq!(Fields::retry_after(&decided(&[(&client, Outcome::refused(5, None))])), None);
}

#[test]
fn concurrency_has_a_unit_of_its_own_and_no_times() {
    let reports = Limit::concurrency("reports", 4);
    let denied = decided(&[(&reports, Outcome::refused(0, Some(Nanos::from_secs(1))))]);
    let headers = written(fields(FieldStyle::Both), &denied);
    assert_eq!(
        read(&headers, RATELIMIT_POLICY),
        [member("reports", &[("q", "4"), ("qu", "concurrent-requests")])]
    );
    assert_eq!(read(&headers, RATELIMIT), [member("reports", &[("r", "0")])]);
    assert_eq!(headers[RETRY_AFTER], "1");
    assert_eq!(headers[X_RATELIMIT_LIMIT], "4");
    assert!(!headers.contains_key(X_RATELIMIT_RESET));
}

#[test]
fn windows_are_whole_seconds_and_at_least_one() {
    let fast = limit("fast", "1000/s").burst(1);
    let slow = limit("slow", "3/s").burst(10);
    let plan = limit("plan", "1000/month");
    let window = limit("window", "7/15min").algorithm(Algorithm::SlidingWindow);
    let decision = decided(&[
        (&fast, left(0, 1)),
        (&slow, left(5, 2)),
        (&plan, left(999, 86_400)),
        (&window, left(6, 900)),
    ]);
    let windows: Vec<_> = read(&written(fields(FieldStyle::Ietf), &decision), RATELIMIT_POLICY)
        .into_iter()
        .map(|(_, parameters)| parameters[1].1.clone())
        .collect();
    assert_eq!(windows, ["1", "4", "2592000", "900"]);
}

#[test]
fn the_older_fields_by_delta_and_by_epoch() {
    let login = limit("login", "5/min");
    let decision = decided(&[(&login, left(3, 24))]);
    let headers = written(fields(FieldStyle::Legacy), &decision);
    assert_eq!(headers[X_RATELIMIT_LIMIT], "5");
    assert_eq!(headers[X_RATELIMIT_REMAINING], "3");
    assert_eq!(headers[X_RATELIMIT_RESET], "24");
    assert_eq!(headers.len(), 3);
    let epoch = Fields { reset: ResetFormat::Epoch, ..fields(FieldStyle::Legacy) };
    assert_eq!(written(epoch, &decision)[X_RATELIMIT_RESET], "1700000024");
}

#[test]
fn lists_of_a_service_behind_are_joined() {
    let login = limit("login", "5/min");
    let decision = decided(&[(&login, left(3, 24))]);
    let mut headers = HeaderMap::new();
    headers.append(RATELIMIT, HeaderValue::from_static(r#""theirs";r=1;t=2"#));
    headers.append(RATELIMIT, HeaderValue::from_static(r#" "more";r=9"#));
    headers.append(RATELIMIT_POLICY, HeaderValue::from_static(r#""theirs";q=1;w=2;pk=:YQ==:"#));
    fields(FieldStyle::Ietf).write(&decision, Nanos::ZERO, &mut headers);
    assert_eq!(
        read(&headers, RATELIMIT),
        [
            member("login", &[("r", "3"), ("t", "24")]),
            member("theirs", &[("r", "1"), ("t", "2")]),
            member("more", &[("r", "9")])
        ]
    );
    assert_eq!(headers[RATELIMIT_POLICY], r#""login";q=5;w=60, "theirs";q=1;w=2;pk=:YQ==:"#);
}

#[test]
fn an_older_drafts_syntax_is_replaced_because_joined_it_would_spoil_the_list() {
    let login = limit("login", "5/min");
    let mut headers = HeaderMap::new();
    headers.insert(RATELIMIT, HeaderValue::from_static("limit=10, remaining=5, reset=3"));
    fields(FieldStyle::Ietf).write(&decided(&[(&login, left(3, 24))]), Nanos::ZERO, &mut headers);
    assert_eq!(read(&headers, RATELIMIT), [member("login", &[("r", "3"), ("t", "24")])]);
}

#[test]
fn of_two_sets_of_older_fields_the_scarcer_stays() {
    let login = limit("login", "5/min");
    for (theirs, stays) in [("2", "2"), ("4", "3"), ("many", "3")] {
        let mut headers = HeaderMap::new();
        headers.insert(X_RATELIMIT_REMAINING, HeaderValue::from_static(theirs));
        fields(FieldStyle::Legacy).write(&decided(&[(&login, left(3, 24))]), Nanos::ZERO, &mut headers);
        assert_eq!(headers[X_RATELIMIT_REMAINING], stays, "{theirs}");
    }
}

#[test]
fn browsers_are_told_which_fields_to_show_once() {
    let login = limit("login", "5/min");
    let both = Fields { style: FieldStyle::Both, ..Fields::default() };
    let mut headers = HeaderMap::new();
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("etag"));
    let denied = decided(&[(&login, refused(Nanos::from_secs(3)))]);
    both.write(&denied, Nanos::ZERO, &mut headers);
    both.write(&denied, Nanos::ZERO, &mut headers);
    let lines: Vec<_> =
        headers.get_all(ACCESS_CONTROL_EXPOSE_HEADERS).iter().map(|line| line.to_str().unwrap()).collect();
    let exposed: Vec<_> = lines.iter().flat_map(|line| line.split(", ")).collect();
    assert_eq!(
        exposed,
        [
            "etag",
            "ratelimit",
            "ratelimit-policy",
            "x-ratelimit-limit",
            "x-ratelimit-remaining",
            "x-ratelimit-reset",
            "retry-after"
        ]
    );
    for (style, denials) in [
        (FieldStyle::Ietf, [false, true]),
        (FieldStyle::Legacy, [true, false]),
        (FieldStyle::Both, [false, true]),
    ] {
        // A layer behind wrote its own already, for the same decision or another.
        let fields = Fields { style, ..Fields::default() };
        let mut headers = HeaderMap::new();
        for is_denied in denials {
            let outcome = if is_denied { refused(Nanos::from_secs(3)) } else { left(3, 24) };
            fields.write(&decided(&[(&login, outcome)]), Nanos::ZERO, &mut headers);
        }
        let mut exposed: Vec<_> = headers
            .get_all(ACCESS_CONTROL_EXPOSE_HEADERS)
            .iter()
            .flat_map(|line| line.to_str().unwrap().split(", "))
            .collect();
        exposed.sort_unstable();
        let mut told: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        told.retain(|name| *name != ACCESS_CONTROL_EXPOSE_HEADERS);
        told.sort_unstable();
        assert_eq!(exposed, told, "each field that is told, once");
    }
    let silent =
        written(Fields { expose: true, ..fields(FieldStyle::None) }, &decided(&[(&login, left(3, 24))]));
    assert!(silent.is_empty(), "nothing written, nothing to expose: {silent:?}");
}

#[test]
fn shadow_limits_are_not_told() {
    let (login, trial) = (limit("login", "5/min"), limit("trial", "1/min").shadow());
    let decision = decided(&[(&trial, refused(Nanos::from_secs(50))), (&login, left(3, 24))]);
    let headers = written(fields(FieldStyle::Both), &decision);
    assert_eq!(headers[RATELIMIT_POLICY], r#""login";q=5;w=60"#);
    assert_eq!(headers[RATELIMIT], r#""login";r=3;t=24"#);
    assert!(!headers.contains_key(RETRY_AFTER));
    let alone = decided(&[(&trial, refused(Nanos::from_secs(50)))]);
    assert!(written(Fields::default(), &alone).is_empty());
    assert!(written(Fields::default(), &decided(&[])).is_empty());
}

#[test]
fn a_limit_asked_about_two_keys_is_one_policy() {
    let login = limit("login", "5/min");
    let decision = decided(&[(&login, left(3, 24)), (&login, left(1, 48))]);
    let headers = written(fields(FieldStyle::Ietf), &decision);
    assert_eq!(headers[RATELIMIT_POLICY], r#""login";q=5;w=60"#);
    assert_eq!(headers[RATELIMIT], r#""login";r=1;t=48"#);
}

#[test]
fn the_body_of_a_denial_names_every_limit_that_said_no() {
    let (client, login, free) = (limit("per-client", "1/s"), limit("login", "5/min"), limit("free", "9/s"));
    let trial = limit("trial", "1/min").shadow();
    let wait = refused(Nanos::from_secs(3));
    let body =
        Fields::problem(&decided(&[(&client, wait), (&free, left(8, 1)), (&login, wait), (&trial, wait)]));
    assert_eq!(
        body,
        concat!(
            r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","#,
            r#""title":"Request cannot be satisfied as assigned quota has been exceeded","#,
            r#""status":429,"violated-policies":["per-client","login"]}"#
        )
    );
}

/// An override has the name of its limit, and another quota: what is known must not be told for it.
#[test]
fn what_is_told_again_is_what_would_be_told_anew() {
    let (one, two) = (limit("one", "1/h"), limit("two", "2/h"));
    let other = one.with_quota("9/h".parse().unwrap(), None).unwrap();
    let mut told = Told::default();
    let [few, more] = [left(1, 3), left(2, 3)];
    let [soon, late] = [refused(Nanos::from_secs(3)), refused(Nanos::from_secs(4))];
    for parts in [
        &[(&one, few)][..],
        &[(&one, few)],
        &[(&one, few)],
        &[(&one, more)],
        &[(&one, more)],
        &[(&one, soon)],
        &[(&one, soon)],
        &[(&one, late)],
        &[(&other, late)],
        &[(&other, late)],
        &[(&one, few), (&two, more)],
        &[(&two, few), (&one, more)],
        &[(&two, few), (&one, more)],
        &[(&two, more), (&one, few)],
        &[(&two, late)],
        &[(&two, late), (&other, soon)],
        &[(&two, soon), (&other, late)],
        &[],
        &[(&one, few)],
    ] {
        let decision = decided(parts);
        let retry_after = Fields::retry_after(&decision);
        for style in [FieldStyle::Ietf, FieldStyle::Both, FieldStyle::None] {
            let mut again = HeaderMap::new();
            fields(style).write_again(
                &decision,
                &mut told,
                retry_after,
                Nanos::from_secs(1_700_000_000),
                &mut again,
            );
            assert_eq!(again, written(fields(style), &decision), "{parts:?}");
            let text: String = again
                .iter()
                .map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()))
                .collect();
            // Not told at once, since most of what is told is never told again.
            let lines = [(); 3].map(|()| told.lines(&fields(style), &decision, retry_after));
            let known = Some(text.into()).filter(|_| !parts.is_empty());
            assert_eq!(lines, [None, known.clone(), known], "{parts:?}");
        }
        for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE] {
            assert_eq!(told.problem(&decision, status), Fields::problem_with_status(&decision, status));
        }
    }
}

#[test]
fn lines_that_say_the_time_of_day_are_not_told_again() {
    let one = limit("one", "1/h");
    let decision = decided(&[(&one, refused(Nanos::from_secs(3)))]);
    let epoch = Fields { reset: ResetFormat::Epoch, ..fields(FieldStyle::Both) };
    let mut told = Told::default();
    assert_eq!([(); 3].map(|()| told.lines(&epoch, &decision, Some(3))), [None, None, None]);
    let other = Fields { style: FieldStyle::Ietf, ..epoch };
    let lines = [(); 2].map(|()| told.lines(&other, &decision, Some(3)));
    assert_eq!(
        lines,
        [
            None,
            Some(
                "retry-after: 3\r\nratelimit-policy: \"one\";q=1;w=3600\r\nratelimit: \"one\";r=0;t=3\r\n"
                    .into()
            )
        ]
    );
}
