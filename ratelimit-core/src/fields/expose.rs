//! `Access-Control-Expose-Headers`, without which a browser hides the fields from scripts of other origins.

use http::header::{ACCESS_CONTROL_EXPOSE_HEADERS, Entry, HeaderMap, HeaderValue};

/// Names that go together in `Access-Control-Expose-Headers`.
const EXPOSED: [&str; 3] = [
    "ratelimit, ratelimit-policy",
    "x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset",
    "retry-after",
];

/// All that are written, on one line, checked when the program is compiled.
fn exposed(ietf: bool, legacy: bool, denied: bool) -> Option<HeaderValue> {
    macro_rules! fixed {
        ($names:literal) => {
            Some(const { HeaderValue::from_static($names) })
        };
    }
    match (ietf, legacy, denied) {
        (false, false, false) => None,
        (false, false, true) => fixed!("retry-after"),
        (true, false, false) => fixed!("ratelimit, ratelimit-policy"),
        (true, false, true) => fixed!("ratelimit, ratelimit-policy, retry-after"),
        (false, true, false) => fixed!("x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset"),
        (false, true, true) => {
            fixed!("x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, retry-after")
        }
        (true, true, false) => {
            fixed!("ratelimit, ratelimit-policy, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset")
        }
        (true, true, true) => fixed!(
            "ratelimit, ratelimit-policy, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, retry-after"
        ),
    }
}

/// Lists our fields, once however many layers write them: on one line where there is none yet.
pub(super) fn expose(headers: &mut HeaderMap, ietf: bool, legacy: bool, denied: bool) {
    let Some(all) = exposed(ietf, legacy, denied) else { return };
    let mut lines = match headers.entry(ACCESS_CONTROL_EXPOSE_HEADERS) {
        Entry::Vacant(nothing) => {
            nothing.insert(all);
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
