//! [`Told`]: what was told last, ready to be told again.

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::{FieldStyle, Fields, Once, ResetFormat, Values, policy_of, seconds_to_tell, state};
use crate::decision::Decision;
use crate::limit::Limit;
use crate::time::Nanos;

/// What a client was told last about its limits. Nearly all requests of a connection meet the same limits, and of many
/// the same is said: of all that are denied within a second, and of those that find their limit fully recovered.
///
/// ```
/// use http::HeaderMap;
/// use ratelimit_core::fields::{Fields, Told};
/// use ratelimit_core::{Limit, Limiter, ManualClock, MemoryStore, Nanos};
///
/// let limiter = Limiter::new(MemoryStore::with_clock(ManualClock::default()));
/// let limit = Limit::new("per-client", "100/s".parse()?);
/// let mut told = Told::default();
/// for left in ["99", "98"] {
///     let mut headers = HeaderMap::new();
///     let decision = limiter.try_check(&limit, "ann");
///     Fields::default().write_again(&decision, &mut told, None, Nanos::ZERO, &mut headers);
///     assert_eq!(headers["ratelimit-policy"], r#""per-client";q=100;w=1"#);
///     assert_eq!(headers["ratelimit"], format!(r#""per-client";r={left};t=1"#));
/// }
/// # Ok::<(), ratelimit_core::RateError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// What all of the following is about.
    limits: SmallVec<[Limit; 2]>,
    policy: Option<HeaderValue>,
    state: Option<State>,
    retry_after: Option<(u64, HeaderValue)>,
    problem: Option<(StatusCode, Bytes)>,
    lines: Option<Lines>,
}

/// A denial's fields as they stand on the wire.
#[derive(Clone, Debug)]
struct Lines {
    /// What they follow from.
    of: Denial,
    /// Kept once it was told twice, as that of [`State`].
    text: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Denial {
    fields: Fields,
    /// Where the data of the limit that binds is.
    limit: usize,
    remaining: u32,
    seconds: Option<u64>,
    retry_after: Option<u64>,
}

/// What `RateLimit` says.
#[derive(Clone, Debug)]
struct State {
    /// Where the limit's data is.
    limit: usize,
    remaining: u32,
    seconds: Option<u64>,
    /// Kept once it was told twice: where it changes from request to request, keeping it would only cost.
    value: Option<HeaderValue>,
}

impl Told {
    /// The body of this denial, as [`Fields::problem_with_status`] makes it. It names the limits that said no,
    /// which is no question where there is but one.
    #[must_use]
    pub fn problem(&mut self, decision: &Decision<'_>, status: StatusCode) -> Bytes {
        self.is_about(decision);
        match &self.problem {
            Some((of, problem)) if *of == status => problem.clone(),
            _ => {
                let problem = Fields::problem_with_status(decision, status);
                self.problem = (self.limits.len() == 1).then(|| (status, problem.clone()));
                problem
            }
        }
    }

    /// What [`Fields::write_again`] would write into an empty head, as lines of HTTP/1.1 (RFC 9112 §5), each with its
    /// end: who writes the head of a denial itself has one piece of bytes to copy. `None` where that has to be made
    /// anew, since nothing like it was told just before or it says the time of day.
    #[must_use]
    pub fn lines(
        &mut self,
        fields: &Fields,
        decision: &Decision<'_>,
        retry_after: Option<u64>,
    ) -> Option<Bytes> {
        let says_time = fields.reset == ResetFormat::Epoch
            && matches!(fields.style, FieldStyle::Legacy | FieldStyle::Both);
        let (limit, outcome) = decision.binding().filter(|(limit, _)| !limit.is_shadow() && !says_time)?;
        self.is_about(decision);
        let of = Denial {
            fields: *fields,
            limit: place(limit),
            remaining: outcome.remaining(),
            seconds: seconds_to_tell(decision, limit, outcome, retry_after),
            retry_after,
        };
        let Some(known) = self.lines.as_mut().filter(|known| known.of == of) else {
            self.lines = Some(Lines { of, text: None });
            return None;
        };
        if known.text.is_none() {
            let mut headers = HeaderMap::new();
            fields.put(
                decision,
                &mut Once { policy: self.policy.as_ref() },
                retry_after,
                Nanos::ZERO,
                &mut headers,
            );
            known.text = Some(headers.iter().fold(Vec::new(), line).into());
        }
        known.text.clone()
    }

    /// Forgets everything if the decision is about other limits than the last.
    pub(super) fn is_about(&mut self, decision: &Decision<'_>) {
        let mut known = self.limits.iter();
        // Limits never change and ours are alive, so one at the same place is the same.
        let same = |limit: &Limit| known.next().is_some_and(|known| place(known) == place(limit));
        let all = decision.limits().map(|(limit, _)| limit).all(same);
        if !all || known.next().is_some() {
            *self = Self {
                limits: decision.limits().map(|(limit, _)| limit.clone()).collect(),
                policy: policy_of(decision),
                ..Self::default()
            };
        }
    }
}

impl Values for Told {
    fn policy(&mut self, _: &Decision<'_>) -> Option<HeaderValue> {
        self.policy.clone()
    }

    fn state(&mut self, limit: &Limit, remaining: u32, seconds: Option<u64>) -> Option<HeaderValue> {
        let make = || state(limit, remaining, seconds);
        let limit = place(limit);
        match &mut self.state {
            Some(last) if (last.limit, last.remaining, last.seconds) == (limit, remaining, seconds) => {
                if last.value.is_none() {
                    last.value = make();
                }
                last.value.clone()
            }
            last => {
                *last = Some(State { limit, remaining, seconds, value: None });
                make()
            }
        }
    }

    fn retry_after(&mut self, seconds: u64) -> HeaderValue {
        match &self.retry_after {
            Some((last, value)) if *last == seconds => value.clone(),
            _ => self.retry_after.insert((seconds, seconds.into())).1.clone(),
        }
    }
}

fn line(mut text: Vec<u8>, (name, value): (&HeaderName, &HeaderValue)) -> Vec<u8> {
    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        text.extend_from_slice(part);
    }
    text
}

/// Where its data is, which all its clones share.
fn place(limit: &Limit) -> usize {
    std::ptr::from_ref(limit.spec()).addr()
}
