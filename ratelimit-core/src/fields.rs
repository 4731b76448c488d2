//! What a client is told about its limits: `RateLimit`, `RateLimit-Policy`, `Retry-After`, the older
//! `x-ratelimit-*`, and the body of a denial. The only file that formats them.
//!
//! # Sources
//! * draft-ietf-httpapi-ratelimit-headers-11: both fields are Lists (RFC 9651) of Strings with parameters,
//!   and the problem type `quota-exceeded`. Drafts 08 to 11 read alike.
//! * RFC 9110 §10.2.3 (`Retry-After`), RFC 9457 (problem details), the Fetch standard
//!   (`Access-Control-Expose-Headers`).
//!
//! # What is not told
//! Limits in shadow mode: they deny nobody, so a client that obeyed them would hold back for nothing.

use bytes::Bytes;
use http::StatusCode;
use http::header::{ACCESS_CONTROL_EXPOSE_HEADERS, Entry, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use smallvec::SmallVec;

use crate::decision::Decision;
use crate::limit::Limit;
use crate::time::Nanos;

/// `ratelimit`: the most constrained limit, with what is left of it.
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// `ratelimit-policy`: all limits, with their quotas.
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// `x-ratelimit-limit`: the capacity of the most constrained limit.
pub const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
/// `x-ratelimit-remaining`: the whole units it has left.
pub const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
/// `x-ratelimit-reset`: when all are back; see [`ResetFormat`].
pub const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The problem type of a denial.
pub const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
/// The problem type of a server that can't decide, or can't take more.
pub const REDUCED_CAPACITY: &str =
    "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";

/// Which fields a response carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FieldStyle {
    /// `RateLimit` and `RateLimit-Policy`, as the IETF drafts them.
    #[default]
    Ietf,
    /// `x-ratelimit-limit`, `-remaining` and `-reset`.
    Legacy,
    /// All of them.
    Both,
    /// None. A denial still says `Retry-After`.
    None,
}

/// How `x-ratelimit-reset` says when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResetFormat {
    /// Seconds from now.
    #[default]
    Delta,
    /// Seconds since the Unix epoch.
    Epoch,
}

/// How a response tells a client about its limits.
///
/// ```
/// use http::HeaderMap;
/// use ratelimit_core::{Fields, Limit, Limiter, ManualClock, MemoryStore, Nanos};
///
/// let limiter = Limiter::new(MemoryStore::with_clock(ManualClock::default()));
/// let limit = Limit::new("per-client", "100/s".parse()?).burst(200);
/// let mut headers = HeaderMap::new();
/// Fields::default().write(&limiter.try_check(&limit, "ann"), Nanos::ZERO, &mut headers);
/// assert_eq!(headers["ratelimit-policy"], r#""per-client";q=200;w=2"#);
/// assert_eq!(headers["ratelimit"], r#""per-client";r=199;t=1"#);
/// # Ok::<(), ratelimit_core::RateError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Which fields.
    pub style: FieldStyle,
    /// How `x-ratelimit-reset` says when.
    pub reset: ResetFormat,
    /// Whether `Access-Control-Expose-Headers` lists them, so that a browser shows them to scripts of other
    /// origins.
    pub expose: bool,
}

impl Default for Fields {
    /// The IETF's fields, exposed to browsers.
    fn default() -> Self {
        Self { style: FieldStyle::Ietf, reset: ResetFormat::Delta, expose: true }
    }
}

/// Bytes of a field before it needs memory of its own; the header value is the only allocation below that.
type Text = SmallVec<[u8; 192]>;

impl Fields {
    /// Adds what `decision` says to `headers`; `utc` is the time since the Unix epoch, which only
    /// [`ResetFormat::Epoch`] looks at.
    ///
    /// Fields that are there already, from a service behind this one, are kept. The lists of the IETF's
    /// fields become one line, ours first; a value in the syntax of an older draft can't be part of such a list
    /// and is replaced. Of two sets of `x-ratelimit-*` the one with less remaining stays.
    pub fn write(&self, decision: &Decision<'_>, utc: Nanos, headers: &mut HeaderMap) {
        self.write_with(decision, None, Self::retry_after(decision), utc, headers);
    }

    /// As [`Fields::write`], with a `RateLimit-Policy` that [`Fields::policy`] made earlier for the same limits
    /// (`None`: make it now) and, for a denial, a wait of the caller's own, in seconds.
    pub fn write_with(
        &self,
        decision: &Decision<'_>,
        policy: Option<&HeaderValue>,
        retry_after: Option<u64>,
        utc: Nanos,
        headers: &mut HeaderMap,
    ) {
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        let (ietf, legacy) = match self.style {
            FieldStyle::Ietf => (true, false),
            FieldStyle::Legacy => (false, true),
            FieldStyle::Both => (true, true),
            FieldStyle::None => (false, false),
        };
        // What is there for show only is not told.
        let Some(limit) = decision.limit().filter(|limit| !limit.is_shadow()) else { return };
        let seconds = seconds_to_tell(decision, limit, retry_after);
        if ietf {
            let policy = policy.cloned().or_else(|| {
                let limits: SmallVec<[&Limit; 4]> = decision.limits().map(|(limit, _)| limit).collect();
                Self::policy(&limits)
            });
            if let Some(policy) = policy {
                join(headers, RATELIMIT_POLICY, policy);
            }
            if let Some(state) = state(limit, decision.remaining(), seconds) {
                join(headers, RATELIMIT, state);
            }
        }
        if legacy {
            self.write_legacy(decision, limit, seconds, utc, headers);
        }
        if self.expose {
            expose(headers, ietf, legacy, retry_after.is_some());
        }
    }

    /// The value of `RateLimit-Policy` for these limits, to be kept by who asks the same limits again and again.
    /// `None` when all of them are in shadow mode, or there is none.
    #[must_use]
    pub fn policy(limits: &[&Limit]) -> Option<HeaderValue> {
        let mut text = Text::new();
        for (place, limit) in limits.iter().enumerate() {
            // A limit that was asked about two keys is one policy.
            if limit.is_shadow() || limits.iter().take(place).any(|before| before.name() == limit.name()) {
                continue;
            }
            if !text.is_empty() {
                text.extend_from_slice(b", ");
            }
            name(&mut text, limit);
            parameter(&mut text, b";q=", limit.capacity().into());
            match limit.window_seconds() {
                Some(seconds) => parameter(&mut text, b";w=", seconds),
                None => text.extend_from_slice(br#";qu="concurrent-requests""#),
            }
        }
        if text.is_empty() { None } else { HeaderValue::from_bytes(&text).ok() }
    }

    /// What `Retry-After` says: whole seconds, rounded up, at least 1, the longest of all limits that said no.
    /// `None` when allowed, and when no wait is long enough.
    #[must_use]
    pub fn retry_after(decision: &Decision<'_>) -> Option<u64> {
        decision.retry_after().map(|wait| wait.secs_rounded_up().max(1))
    }

    /// The body of a denial with status 429, as `application/problem+json`.
    #[must_use]
    pub fn problem(decision: &Decision<'_>) -> Bytes {
        Self::problem_with_status(decision, StatusCode::TOO_MANY_REQUESTS)
    }

    /// The body of a denial with another status; `violated-policies` names every limit that said no.
    #[must_use]
    pub fn problem_with_status(decision: &Decision<'_>, status: StatusCode) -> Bytes {
        let mut json = Vec::with_capacity(256);
        json.extend_from_slice(br#"{"type":""#);
        json.extend_from_slice(QUOTA_EXCEEDED.as_bytes());
        json.extend_from_slice(
            br#"","title":"Request cannot be satisfied as assigned quota has been exceeded","status":"#,
        );
        json.extend_from_slice(status.as_str().as_bytes());
        json.extend_from_slice(br#","violated-policies":["#);
        for (place, (limit, _)) in decision.denials().enumerate() {
            if place > 0 {
                json.push(b',');
            }
            // Names of limits have no character that JSON would escape.
            json.push(b'"');
            json.extend_from_slice(limit.name().as_bytes());
            json.push(b'"');
        }
        json.extend_from_slice(b"]}");
        json.into()
    }

    fn write_legacy(
        &self,
        decision: &Decision<'_>,
        limit: &Limit,
        seconds: Option<u64>,
        utc: Nanos,
        headers: &mut HeaderMap,
    ) {
        let number =
            |value: &HeaderValue| value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
        let theirs = headers.get(X_RATELIMIT_REMAINING).and_then(number);
        let remaining = decision.remaining();
        if decision.is_allowed() && theirs.is_some_and(|left| left < u64::from(remaining)) {
            return;
        }
        headers.insert(X_RATELIMIT_LIMIT, HeaderValue::from(limit.capacity()));
        headers.insert(X_RATELIMIT_REMAINING, HeaderValue::from(remaining));
        match (seconds, self.reset) {
            (None, _) => drop(headers.remove(X_RATELIMIT_RESET)),
            (Some(seconds), ResetFormat::Delta) => drop(headers.insert(X_RATELIMIT_RESET, seconds.into())),
            (Some(seconds), ResetFormat::Epoch) => {
                let at = utc.saturating_add(Nanos::from_secs(seconds)).secs_rounded_up();
                headers.insert(X_RATELIMIT_RESET, at.into());
            }
        }
    }
}

/// Seconds until the client has all it can have, or, when it was refused, until it should ask again. For
/// concurrency there is no such time: a permit comes back when somebody is done.
fn seconds_to_tell(decision: &Decision<'_>, limit: &Limit, retry_after: Option<u64>) -> Option<u64> {
    limit.window_seconds()?;
    let recovered = || decision.reset_after().secs_rounded_up();
    Some(if decision.is_allowed() { recovered() } else { retry_after.unwrap_or_else(recovered) })
}

fn state(limit: &Limit, remaining: u32, seconds: Option<u64>) -> Option<HeaderValue> {
    let mut text = Text::new();
    name(&mut text, limit);
    parameter(&mut text, b";r=", remaining.into());
    if let Some(seconds) = seconds {
        parameter(&mut text, b";t=", seconds);
    }
    HeaderValue::from_bytes(&text).ok()
}

/// Names of limits have no character that a String (RFC 9651 §3.3.3) would escape.
fn name(text: &mut Text, limit: &Limit) {
    text.push(b'"');
    text.extend_from_slice(limit.name().as_bytes());
    text.push(b'"');
}

fn parameter(text: &mut Text, key: &[u8], value: u64) {
    text.extend_from_slice(key);
    text.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Puts our members in front of the list that is there.
fn join(headers: &mut HeaderMap, field: HeaderName, ours: HeaderValue) {
    let mut theirs = match headers.entry(field) {
        Entry::Vacant(nothing) => {
            nothing.insert(ours);
            return;
        }
        Entry::Occupied(theirs) => theirs,
    };
    let mut text = Text::from_slice(ours.as_bytes());
    for line in theirs.iter() {
        let members = line.as_bytes().trim_ascii();
        if members.first() == Some(&b'"') {
            text.extend_from_slice(b", ");
            text.extend_from_slice(members);
        }
    }
    theirs.insert(HeaderValue::from_bytes(&text).unwrap_or(ours));
}

/// Names that go together in `Access-Control-Expose-Headers`.
const EXPOSED: [&str; 3] = [
    "ratelimit, ratelimit-policy",
    "x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset",
    "retry-after",
];

/// Lists our fields, once however many layers write them: on one line where there is none yet.
fn expose(headers: &mut HeaderMap, ietf: bool, legacy: bool, denied: bool) {
    let all = match (ietf, legacy, denied) {
        (false, false, false) => return,
        (false, false, true) => "retry-after",
        (true, false, false) => "ratelimit, ratelimit-policy",
        (true, false, true) => "ratelimit, ratelimit-policy, retry-after",
        (false, true, false) => "x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset",
        (false, true, true) => "x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, retry-after",
        (true, true, false) => {
            "ratelimit, ratelimit-policy, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset"
        }
        (true, true, true) => {
            "ratelimit, ratelimit-policy, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, retry-after"
        }
    };
    let mut lines = match headers.entry(ACCESS_CONTROL_EXPOSE_HEADERS) {
        Entry::Vacant(nothing) => {
            nothing.insert(HeaderValue::from_static(all));
            return;
        }
        Entry::Occupied(lines) => lines,
    };
    for (names, wanted) in EXPOSED.into_iter().zip([ietf, legacy, denied]) {
        let lists = |line: &HeaderValue, name: &str| {
            line.to_str()
                .is_ok_and(|text| text.split(',').any(|listed| listed.trim().eq_ignore_ascii_case(name)))
        };
        let mut names_left = names.split(", ");
        if wanted && !names_left.all(|name| lines.iter().any(|line| lists(line, name))) {
            lines.append(HeaderValue::from_static(names));
        }
    }
}

#[cfg(test)]
mod tests {
    use sfv::{BareItem, List, ListEntry, Parser};

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
        let list: List =
            Parser::new(lines[0]).parse().unwrap_or_else(|error| panic!("{}: {error}", lines[0]));
        list.into_iter()
            .map(|member| {
                let ListEntry::Item(item) = member else { panic!("an inner list in {}", lines[0]) };
                let BareItem::String(name) = item.bare_item else { panic!("no string in {}", lines[0]) };
                let text = |value: &BareItem| match value {
                    BareItem::Integer(number) => number.to_string(),
                    BareItem::String(text) => text.as_str().to_owned(),
                    other => panic!("{other:?}"),
                };
                let parameters =
                    item.params.iter().map(|(key, value)| (key.as_str().to_owned(), text(value)));
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
        let decision = decided(&[
            (&client, refused(Nanos::new(10_000_000))),
            (&login, refused(Nanos::new(24_000_000_001))),
        ]);
        let headers = written(fields(FieldStyle::Ietf), &decision);
        assert_eq!(headers[RATELIMIT], r#""login";r=0;t=25"#);
        assert_eq!(headers[RETRY_AFTER], "25");

        let soon = decided(&[(&client, refused(Nanos::new(1)))]);
        assert_eq!(Fields::retry_after(&soon), Some(1));
        assert_eq!(
            written(fields(FieldStyle::None), &soon).len(),
            1,
            "Retry-After is told whatever the style"
        );
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
        let lines: Vec<_> = headers
            .get_all(ACCESS_CONTROL_EXPOSE_HEADERS)
            .iter()
            .map(|line| line.to_str().unwrap())
            .collect();
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
        let (client, login, free) =
            (limit("per-client", "1/s"), limit("login", "5/min"), limit("free", "9/s"));
        let trial = limit("trial", "1/min").shadow();
        let wait = refused(Nanos::from_secs(3));
        let body = Fields::problem(&decided(&[
            (&client, wait),
            (&free, left(8, 1)),
            (&login, wait),
            (&trial, wait),
        ]));
        assert_eq!(
            body,
            concat!(
                r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","#,
                r#""title":"Request cannot be satisfied as assigned quota has been exceeded","#,
                r#""status":429,"violated-policies":["per-client","login"]}"#
            )
        );
    }
}
