//! What requests and limits are made of: fields, methods, patterns, values, rates.

use http::{HeaderName, Method};
use ratelimit_core::{Rate, RateError};
use serde_json::{Value, json};

use super::text;
use crate::config::decode::{Decode, Here};
use crate::config::fault::{Faults, Place, shown};
use crate::config::schema::{self, Shapes, or_variable};
use crate::config::words::{Glob, PathPattern, PatternError, Source, SourceError};

impl Decode for HeaderName {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        header_name(text(here, "a name of a header field", faults)?, &here.place, faults)
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(schema::text(json!({"pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"})))
    }
}

/// The name of a header field that stands at `place`.
pub(in crate::config) fn header_name(text: &str, place: &Place, faults: &mut Faults) -> Option<HeaderName> {
    HeaderName::try_from(text)
        .map_err(|_| faults.refuse(place, format!("{} is not a name of a header field", shown(text))))
        .ok()
}

impl Decode for Method {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "a method", faults)?;
        method(text)
            .map_err(|hint| {
                faults.refuse_with(&here.place, format!("{} is not a method", shown(text)), hint);
            })
            .ok()
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(schema::text(json!({"pattern": "^[A-Z0-9!#$%&'*+.^_`|~-]+$", "examples": METHODS})))
    }
}

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// A method, or what to write instead: they are written in capitals, and `get` is another method than `GET`.
pub(in crate::config) fn method(text: &str) -> Result<Method, String> {
    let upper = text.to_ascii_uppercase();
    match Method::try_from(text) {
        Ok(method) if upper == text => Ok(method),
        _ => Err(match near_method(&upper) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("methods are written in capitals, such as {}", METHODS.join(", ")),
        }),
    }
}

fn near_method(upper: &str) -> Option<&'static str> {
    if upper.len() > 16 {
        return None;
    }
    METHODS.iter().copied().find(|known| strsim::damerau_levenshtein(upper, known) <= 1)
}

/// Most bytes of a pattern: what it costs to match grows with them.
const MOST_PATTERN: usize = 1024;

fn short<'t>(text: &'t str, place: &Place, faults: &mut Faults) -> Option<&'t str> {
    if text.len() > MOST_PATTERN {
        faults.refuse(place, format!("a pattern has at most {MOST_PATTERN} bytes"));
        return None;
    }
    Some(text)
}

impl Decode for Glob {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "a pattern", faults)?;
        short(text, &here.place, faults).map(Self::new)
    }

    fn schema(_: &mut Shapes) -> Value {
        schema::text(json!({}))
    }
}

impl Decode for PathPattern {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "a pattern of paths", faults)?;
        short(text, &here.place, faults)?
            .parse()
            .map_err(|error: PatternError| faults.refuse(&here.place, format!("{}: {error}", shown(text))))
            .ok()
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({"type": "string", "pattern": "^/", "examples": ["/login", "/v1/{resource}/**"]}))
    }
}

impl Decode for Rate {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "a rate", faults)?;
        text.parse().map_err(|error: RateError| faults.refuse(&here.place, error.to_string())).ok()
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({
            "type": "string",
            "pattern": "^[0-9]+ */ *([0-9]* *(s|min|h|day|week)|1?month)$",
            "examples": ["100/s", "5/15min", "10000/day"],
        }))
    }
}

impl Decode for Source {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        source(text(here, "a value of a request", faults)?, &here.place, faults)
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({
            "type": "string",
            "pattern": r"^(client\.ip|method|host|path|basic\.user|digest\.user|tls\.client|(header|query|cookie|path|jwt|descriptor)\..+)$",
            "examples": ["client.ip", "header.x-api-key", "path.resource"],
        }))
    }
}

/// The value of a request that is named at `place`.
pub(in crate::config) fn source(text: &str, place: &Place, faults: &mut Faults) -> Option<Source> {
    let error = match text.parse() {
        Ok(source) => return Some(source),
        Err(error) => error,
    };
    match error {
        SourceError::Unknown(Some(near)) => {
            faults.refuse_with(place, format!("{} is {error}", shown(text)), format!("did you mean {near}?"));
        }
        SourceError::Unknown(None) => faults.refuse(place, format!("{} is {error}", shown(text))),
        error => faults.refuse(place, format!("{}: {error}", shown(text))),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_written_in_capitals() {
        assert_eq!(method("POST"), Ok(Method::POST));
        assert_eq!(method("PURGE").unwrap().as_str(), "PURGE");
        assert_eq!(method("post"), Err("did you mean POST?".to_owned()));
        assert!(method("P OST").is_err());
    }
}
