//! [`Claims`]: what a verified token says. Only verification makes one.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::Unverified;

/// SHA-256 of a client's certificate in DER.
pub type Fingerprint = [u8; 32];

/// The claims of a token whose signature was right.
#[derive(Clone, Debug)]
pub struct Claims {
    claims: Map<String, Value>,
    /// Seconds since the Unix epoch.
    not_before: u64,
    /// Seconds since the Unix epoch.
    expires: u64,
    bound_to: Option<Fingerprint>,
}

impl Claims {
    /// # Errors
    /// When it does not say until when it holds, or says it in no number, or is bound to what is no certificate.
    pub(super) fn new(claims: Map<String, Value>) -> Result<Self, Unverified> {
        let not_before = match claims.get("nbf") {
            None => 0,
            Some(time) => seconds(time).ok_or(Unverified::Malformed)?,
        };
        // A token that holds for ever could never be taken back.
        let expires = claims.get("exp").and_then(seconds).ok_or(Unverified::Malformed)?;
        let bound_to = match claims.get("cnf").and_then(|how| how.get("x5t#S256")) {
            None => None,
            Some(print) => {
                let print = print.as_str().and_then(|print| URL_SAFE_NO_PAD.decode(print).ok());
                let print = print.and_then(|print| Fingerprint::try_from(print).ok());
                Some(print.ok_or(Unverified::Malformed)?)
            }
        };
        Ok(Self { claims, not_before, expires, bound_to })
    }

    /// # Errors
    /// When it does not hold at that time, in seconds since the Unix epoch.
    pub(super) fn holds_at(&self, now: u64, leeway: u64) -> Result<(), Unverified> {
        if now >= self.expires.saturating_add(leeway) {
            return Err(Unverified::Expired);
        }
        if now.saturating_add(leeway) < self.not_before {
            return Err(Unverified::TooEarly);
        }
        Ok(())
    }

    /// Whether it is bound to that certificate (RFC 8705 §3.1).
    pub(super) fn is_bound_to(&self, certificate: Option<&Fingerprint>) -> bool {
        certificate.is_some() && self.bound_to.as_ref() == certificate
    }

    /// The value of a claim as text: a string as it is, a number in its shortest form, `true`, `false`, and the
    /// value of a list of one. Other lists, objects and null have none. Dots lead into objects, unless the whole
    /// of what is left is a claim's name: `realm.roles`, `https://example.com/plan`.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        match find(&self.claims, name)? {
            Value::Array(items) => match items.as_slice() {
                [one] => scalar(one),
                _ => None,
            },
            one => scalar(one),
        }
    }

    /// Whether a claim, or an item of it if it is a list, fits.
    pub fn any(&self, name: &str, mut fits: impl FnMut(&str) -> bool) -> bool {
        match find(&self.claims, name) {
            Some(Value::Array(items)) => items.iter().filter_map(scalar).any(|item| fits(&item)),
            Some(one) => scalar(one).is_some_and(|one| fits(&one)),
            None => false,
        }
    }
}

fn find<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    name.match_indices('.').find_map(|(dot, _)| {
        let (outer, inner) = (name.get(..dot)?, name.get(dot + 1..)?);
        find(claims.get(outer)?.as_object()?, inner)
    })
}

/// 2⁵³: up to here every whole number is a float of its own.
const WHOLE: f64 = 9_007_199_254_740_992.0;

fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    Some(match value {
        Value::String(text) => Cow::Borrowed(text),
        Value::Bool(true) => Cow::Borrowed("true"),
        Value::Bool(false) => Cow::Borrowed("false"),
        Value::Number(number) => match number.as_f64() {
            // 1.0 and 1e0 are 1.
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < WHOLE => {
                Cow::Owned(format!("{:.0}", float + 0.0))
            }
            _ => Cow::Owned(number.to_string()),
        },
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    })
}

/// A NumericDate (RFC 7519 §2), which may have a fraction.
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let float = value.as_f64().filter(|float| *float >= 0.0 && *float < WHOLE)?;
        // Through text, since a cast would be silent about what it cuts.
        format!("{:.0}", float.floor()).parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(value: Value) -> Claims {
        let Value::Object(mut claims) = value else { panic!("no object") };
        claims.entry("exp").or_insert(json!(100));
        Claims::new(claims).unwrap()
    }

    #[test]
    fn claims_as_text() {
        let claims = claims(json!({
            "sub": "alice", "n": 17, "neg": -3, "float": 1.5, "whole": 1.0, "zero": -0.0, "big": 18446744073709551615u64,
            "yes": true, "none": null, "one": ["x"], "many": ["x", "y"], "empty": [], "nested": [["x"]],
            "realm": {"plan": "pro", "deep.er": {"a": 1}}, "https://example.com/plan": "gold",
            "a.b": {"c": 1}, "a": {"b.c": 2, "d": 3},
        }));
        for (name, text) in [
            ("sub", Some("alice")),
            ("n", Some("17")),
            ("neg", Some("-3")),
            ("float", Some("1.5")),
            ("whole", Some("1")),
            ("zero", Some("0")),
            ("big", Some("18446744073709551615")),
            ("yes", Some("true")),
            ("none", None),
            ("one", Some("x")),
            ("many", None),
            ("empty", None),
            ("nested", None),
            ("realm", None),
            ("realm.plan", Some("pro")),
            ("realm.deep.er.a", Some("1")),
            ("https://example.com/plan", Some("gold")),
            ("a.b.c", Some("2")),
            ("a.d", Some("3")),
            ("a.x", None),
            ("", None),
            (".", None),
            ("sub.x", None),
        ] {
            assert_eq!(claims.text(name).as_deref(), text, "{name}");
        }
        assert!(claims.any("many", |item| item == "y") && !claims.any("many", |item| item == "z"));
        assert!(claims.any("sub", |item| item == "alice") && !claims.any("nothing", |_| true));
    }

    #[test]
    fn when_a_token_holds() {
        let claims = claims(json!({"nbf": 50.9, "exp": 100}));
        for (now, leeway, holds) in [
            (49, 0, Err(Unverified::TooEarly)),
            (50, 0, Ok(())),
            (40, 10, Ok(())),
            (39, 10, Err(Unverified::TooEarly)),
            (99, 0, Ok(())),
            (100, 0, Err(Unverified::Expired)),
            (109, 10, Ok(())),
            (110, 10, Err(Unverified::Expired)),
            (u64::MAX, u64::MAX, Err(Unverified::Expired)),
        ] {
            assert_eq!(claims.holds_at(now, leeway), holds, "{now} {leeway}");
        }
        for bad in [
            json!({}),
            json!({"exp": "100"}),
            json!({"exp": -1}),
            json!({"exp": 1e300}),
            json!({"exp": 1, "nbf": []}),
        ] {
            let Value::Object(bad) = bad else { panic!("no object") };
            assert_eq!(Claims::new(bad).err(), Some(Unverified::Malformed));
        }
    }
}
