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

mod expose;
#[cfg(test)]
mod tests;
mod told;

use bytes::Bytes;
use http::StatusCode;
use http::header::{Entry, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use smallvec::SmallVec;

pub use told::Told;

use self::expose::expose;

use crate::algorithm::Outcome;
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
        self.put(decision, &mut Once { policy }, retry_after, utc, headers);
    }

    /// As [`Fields::write`], for who tells the same again and again: what was told last is made once. `retry_after` is,
    /// for a denial, a wait of the caller's own, in seconds.
    pub fn write_again(
        &self,
        decision: &Decision<'_>,
        told: &mut Told,
        retry_after: Option<u64>,
        utc: Nanos,
        headers: &mut HeaderMap,
    ) {
        told.is_about(decision);
        self.put(decision, told, retry_after, utc, headers);
    }

    fn put(
        &self,
        decision: &Decision<'_>,
        values: &mut impl Values,
        retry_after: Option<u64>,
        utc: Nanos,
        headers: &mut HeaderMap,
    ) {
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, values.retry_after(seconds));
        }
        let (ietf, legacy) = match self.style {
            FieldStyle::Ietf => (true, false),
            FieldStyle::Legacy => (false, true),
            FieldStyle::Both => (true, true),
            FieldStyle::None => (false, false),
        };
        // What is there for show only is not told.
        let Some((limit, outcome)) = decision.binding().filter(|(limit, _)| !limit.is_shadow()) else {
            return;
        };
        let seconds = seconds_to_tell(decision, limit, outcome, retry_after);
        if ietf {
            if let Some(policy) = values.policy(decision) {
                join(headers, RATELIMIT_POLICY, policy);
            }
            if let Some(state) = values.state(limit, outcome.remaining(), seconds) {
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

/// Where values of fields come from.
trait Values {
    fn policy(&mut self, decision: &Decision<'_>) -> Option<HeaderValue>;
    fn state(&mut self, limit: &Limit, remaining: u32, seconds: Option<u64>) -> Option<HeaderValue>;
    fn retry_after(&mut self, seconds: u64) -> HeaderValue;
}

/// They are made for one response.
struct Once<'v> {
    /// But for this one, if it is at hand.
    policy: Option<&'v HeaderValue>,
}

impl Values for Once<'_> {
    fn policy(&mut self, decision: &Decision<'_>) -> Option<HeaderValue> {
        self.policy.cloned().or_else(|| policy_of(decision))
    }

    fn state(&mut self, limit: &Limit, remaining: u32, seconds: Option<u64>) -> Option<HeaderValue> {
        state(limit, remaining, seconds)
    }

    fn retry_after(&mut self, seconds: u64) -> HeaderValue {
        seconds.into()
    }
}

fn policy_of(decision: &Decision<'_>) -> Option<HeaderValue> {
    let limits: SmallVec<[&Limit; 4]> = decision.limits().map(|(limit, _)| limit).collect();
    Fields::policy(&limits)
}

/// Seconds until the client has all it can have, or, when it was refused, until it should ask again. For
/// concurrency there is no such time: a permit comes back when somebody is done.
fn seconds_to_tell(
    decision: &Decision<'_>,
    limit: &Limit,
    outcome: &Outcome,
    retry_after: Option<u64>,
) -> Option<u64> {
    limit.window_seconds()?;
    let recovered = || outcome.reset_after.secs_rounded_up();
    Some(if decision.is_allowed() { recovered() } else { retry_after.unwrap_or_else(recovered) })
}

fn state(limit: &Limit, remaining: u32, seconds: Option<u64>) -> Option<HeaderValue> {
    let (mut left, mut time) = (itoa::Buffer::new(), itoa::Buffer::new());
    let (before, time) = seconds.map_or(("", ""), |seconds| (";t=", time.format(seconds)));
    // Copied once: this is the one value that differs from request to request.
    let text = ["\"", limit.name(), "\";r=", left.format(remaining), before, time].concat();
    HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
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
