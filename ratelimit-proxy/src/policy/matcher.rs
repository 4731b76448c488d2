//! [`Matcher`]: whether a limit, or an exemption, is about a request.
//!
//! Where a request can be read in two ways, the way that limits it is taken: a field or parameter that comes
//! several times fits a limit if any of them does, and lets a request off (in `exempt` and under `not`) only
//! if all do; so it is with the case of a method.

use std::fmt;

use http::header::AUTHORIZATION;
use http::{HeaderName, Method};

use super::pattern::Pattern;
use super::source::{form_decoded, header_value, is_named, parameters};
use crate::config::Match;
use crate::config::words::{Glob, PathPattern, Segment};
use crate::facts::{Descriptor, Facts};
use crate::identity::Networks;
use crate::path;

/// What a fitting request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It is limited.
    Limits,
    /// It is let off.
    LetsOff,
}

/// A compiled [`Match`].
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    written: Match,
    /// Whether it is about Envoy's descriptors, and no requests; the other way round if not.
    asked: bool,
    effect: Effect,
    headers: Box<[(HeaderName, Pattern)]>,
    query: Box<[(Box<str>, Pattern)]>,
    jwt: Box<[(Box<str>, Pattern)]>,
    networks: Networks,
    /// The entries of a descriptor.
    entries: Option<Box<[Entry]>>,
    not: Option<Box<Self>>,
}

/// Name and pattern of an entry of a descriptor.
type Entry = (Box<[u8]>, Pattern);

/// A condition that a request does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It is about what others ask, or about nothing that they do.
    Entrance,
    Domain,
    Descriptor,
    Path,
    Method,
    Host,
    /// The header of that number.
    Header(usize),
    /// The parameter of that number.
    Query(usize),
    ClientIp,
    /// The claim of that number.
    Jwt(usize),
    Not,
}

impl Matcher {
    pub(super) fn new(written: &Match, effect: Effect) -> Self {
        let opposite = match effect {
            Effect::Limits => Effect::LetsOff,
            Effect::LetsOff => Effect::Limits,
        };
        Self {
            effect,
            headers: written.headers.iter().map(|(name, glob)| (name.clone(), Pattern::text(glob))).collect(),
            query: written
                .query
                .iter()
                .map(|(name, glob)| (name.as_str().into(), Pattern::text(glob)))
                .collect(),
            jwt: written
                .jwt
                .iter()
                .map(|(claim, glob)| (claim.as_str().into(), Pattern::text(glob)))
                .collect(),
            networks: Networks::new(&written.client_ip),
            entries: written.descriptors.as_ref().map(|entries| {
                entries.iter().map(|(name, glob)| (name.as_bytes().into(), Pattern::text(glob))).collect()
            }),
            asked: written.names_descriptors(),
            not: written.not.as_deref().map(|inner| Box::new(Self::new(inner, opposite))),
            written: written.clone(),
        }
    }

    /// The same about Envoy's descriptors, or about requests, whatever it names itself.
    pub(super) fn about(mut self, asked: bool) -> Self {
        self.asked = asked;
        self.not = self.not.map(|not| Box::new(not.about(asked)));
        self
    }

    /// Whether it is about Envoy's descriptors.
    pub(super) const fn is_asked(&self) -> bool {
        self.asked
    }

    /// The domain that it names.
    pub(super) fn domain(&self) -> Option<&str> {
        self.written.domain.as_deref()
    }

    /// The first condition that does not hold; `None` if all do.
    #[inline]
    pub(super) fn fails(&self, facts: &Facts<'_>) -> Option<Condition> {
        if self.asked != facts.descriptor.is_some() {
            return Some(Condition::Entrance);
        }
        if let Some(descriptor) = facts.descriptor {
            return self.fails_asked(descriptor, facts);
        }
        if let Some(pattern) = &self.written.path
            && !fits_path(pattern, facts.path)
        {
            return Some(Condition::Path);
        }
        if !self.method(facts.method) {
            return Some(Condition::Method);
        }
        if self.written.host.as_ref().is_some_and(|host| !host.fits(facts.host.as_bytes())) {
            return Some(Condition::Host);
        }
        if !self.networks.is_empty() && !self.networks.contains(facts.client) {
            return Some(Condition::ClientIp);
        }
        if let Some(number) =
            self.headers.iter().position(|(name, pattern)| !self.header(name, pattern, facts))
        {
            return Some(Condition::Header(number));
        }
        if let Some(number) = self.query.iter().position(|(name, pattern)| !self.query(name, pattern, facts))
        {
            return Some(Condition::Query(number));
        }
        // Last, since it may cost a signature.
        if let Some(number) = self.jwt.iter().position(|(claim, pattern)| !claimed(claim, pattern, facts)) {
            return Some(Condition::Jwt(number));
        }
        self.not.as_ref().filter(|not| not.fails(facts).is_none()).map(|_| Condition::Not)
    }

    /// As `fails`, of a descriptor; a configuration says nothing else of one.
    fn fails_asked(&self, descriptor: &Descriptor<'_>, facts: &Facts<'_>) -> Option<Condition> {
        if self.written.domain.as_ref().is_some_and(|domain| domain.as_bytes() != descriptor.domain) {
            return Some(Condition::Domain);
        }
        if let Some(entries) = &self.entries {
            let found = descriptor.entries;
            let fits = |((name, pattern), (found, value)): (&Entry, &(&[u8], &[u8]))| {
                **name == **found && pattern.fits_text(value)
            };
            if entries.len() != found.len() || !entries.iter().zip(found).all(fits) {
                return Some(Condition::Descriptor);
            }
        }
        self.not.as_ref().filter(|not| not.fails(facts).is_none()).map(|_| Condition::Not)
    }

    fn header(&self, name: &HeaderName, pattern: &Pattern, facts: &Facts<'_>) -> bool {
        let Some(whole) = header_value(facts.headers, name) else { return false };
        let mut fits = facts.headers.get_all(name).iter().map(|line| pattern.fits_text(line.as_bytes()));
        match self.effect {
            Effect::Limits => pattern.fits_text(&whole) || fits.any(|fits| fits),
            Effect::LetsOff => pattern.fits_text(&whole) && fits.all(|fits| fits),
        }
    }

    /// Methods have a case, but some upstreams read `post` as `POST`.
    fn method(&self, method: &Method) -> bool {
        self.written.methods.is_empty()
            || self.written.methods.contains(method)
            || self.effect == Effect::Limits
                && self.written.methods.iter().any(|m| m.as_str().eq_ignore_ascii_case(method.as_str()))
    }

    fn query(&self, name: &str, pattern: &Pattern, facts: &Facts<'_>) -> bool {
        let mut fits = parameters(facts.query)
            .filter(|(raw, _)| is_named(raw, name))
            .map(|(_, value)| pattern.fits_text(&form_decoded(value)));
        match self.effect {
            Effect::Limits => fits.any(|fits| fits),
            Effect::LetsOff => fits.next().is_some_and(|first| first && fits.all(|fits| fits)),
        }
    }

    /// Whether it is plain that every request fits.
    pub(super) fn is_open(&self) -> bool {
        let Match { path, methods, host, .. } = &self.written;
        path.as_ref().is_none_or(|path| path.open && path.segments.is_empty())
            && methods.is_empty()
            && host.is_none()
            && self.headers.is_empty()
            && self.query.is_empty()
            && self.jwt.is_empty()
            && self.networks.is_empty()
            && self.not.is_none()
    }

    pub(super) fn looks_at_path(&self) -> bool {
        self.written.path.is_some() || self.not.as_ref().is_some_and(|not| not.looks_at_path())
    }

    /// The fields that it looks at.
    pub(super) fn fields<'m>(&'m self, to: &mut Vec<&'m HeaderName>) {
        to.extend(self.headers.iter().map(|(name, _)| name));
        to.extend((!self.jwt.is_empty()).then_some(&AUTHORIZATION));
        if let Some(not) = &self.not {
            not.fields(to);
        }
    }

    /// Why a request does not meet a condition, in words.
    pub(super) fn why(&self, condition: Condition, facts: &Facts<'_>) -> String {
        let written = &self.written;
        match condition {
            Condition::Entrance if self.asked => "it judges Envoy's questions only".to_owned(),
            Condition::Entrance => "it judges requests only".to_owned(),
            Condition::Domain => match &written.domain {
                Some(domain) => format!("the domain is not {domain}"),
                None => String::new(),
            },
            Condition::Descriptor => {
                let entries = written.descriptors.as_deref().unwrap_or_default();
                format!("the descriptor is not {}", Entries(entries))
            }
            Condition::Path => match &written.path {
                Some(pattern) => format!("path {} does not match {pattern}", facts.path),
                None => String::new(),
            },
            Condition::Method => format!(
                "method {} is not {}{}",
                facts.method,
                if written.methods.len() > 1 { "one of " } else { "" },
                List(&written.methods)
            ),
            Condition::Host => match &written.host {
                Some(host) => format!("host {} is not {host}", quoted(facts.host.as_bytes())),
                None => String::new(),
            },
            Condition::Header(number) => {
                written.headers.get(number).map_or_else(String::new, |(name, glob)| {
                    match header_value(facts.headers, name) {
                        None => format!("there is no header {name}"),
                        Some(value) => format!("header {name} is {}, not {glob}", quoted(&value)),
                    }
                })
            }
            Condition::Query(number) => written.query.get(number).map_or_else(String::new, |(name, glob)| {
                match parameters(facts.query).find(|(raw, _)| is_named(raw, name)) {
                    None => format!("there is no query parameter {name}"),
                    Some((_, value)) => {
                        format!("query parameter {name} is {}, not {glob}", quoted(&form_decoded(value)))
                    }
                }
            }),
            Condition::ClientIp => format!("client {} is not in {}", facts.client, List(&written.client_ip)),
            Condition::Jwt(number) => {
                written.jwt.get(number).map_or_else(String::new, |(claim, glob)| match facts.claims {
                    None => "tokens are not verified".to_owned(),
                    Some(claims) => match claims.verified() {
                        Err(why) => why.to_string(),
                        Ok(claims) => match claims.text(claim) {
                            None => format!("no jwt.{claim} fits {glob}"),
                            Some(text) => format!("jwt.{claim} is {}, not {glob}", quoted(text.as_bytes())),
                        },
                    },
                })
            }
            Condition::Not => match &self.not {
                Some(not) => format!("excluded by not: {not}"),
                None => String::new(),
            },
        }
    }
}

/// Whether a claim of a verified token fits, or an item of it if it is a list. A request without such a token has
/// no claims, under `not` too.
fn claimed(claim: &str, pattern: &Pattern, facts: &Facts<'_>) -> bool {
    let verified = facts.claims.and_then(|claims| claims.verified().ok());
    verified.is_some_and(|claims| claims.any(claim, |text| pattern.fits_text(text.as_bytes())))
}

fn fits_path(pattern: &PathPattern, path: &str) -> bool {
    let mut found = path::segments(path);
    for wanted in &pattern.segments {
        let Some(segment) = found.next() else { return false };
        if let Segment::Literal(literal) = wanted
            && segment != literal
        {
            return false;
        }
    }
    pattern.open || found.next().is_none()
}

/// Bytes of a client, in quotes and escaped.
pub(super) fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

/// What it is about, in words: `POST /login`.
impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = &self.written;
        let mut words = Vec::new();
        words.extend(written.domain.iter().map(|domain| format!("domain {domain}")));
        words.extend(written.descriptors.iter().map(|entries| format!("descriptor {}", Entries(entries))));
        match (&*written.methods, &written.path) {
            ([], None) => {}
            ([], Some(path)) => words.push(path.to_string()),
            (methods, None) => words.push(Methods(methods).to_string()),
            (methods, Some(path)) => words.push(format!("{} {path}", Methods(methods))),
        }
        words.extend(written.host.iter().map(|host| format!("host {host}")));
        words.extend(written.headers.iter().map(|(name, glob)| format!("header {name}: {glob}")));
        words.extend(written.query.iter().map(|(name, glob)| format!("query {name}={glob}")));
        words.extend(written.jwt.iter().map(|(claim, glob)| format!("jwt.{claim}: {glob}")));
        if !written.client_ip.is_empty() {
            words.push(format!("client in {}", List(&written.client_ip)));
        }
        words.extend(self.not.iter().map(|not| format!("not ({not})")));
        let all = if self.asked { "every descriptor" } else { "every request" };
        f.write_str(if words.is_empty() { all } else { "" })?;
        f.write_str(&words.join(", "))
    }
}

struct Methods<'m>(&'m [Method]);

impl fmt::Display for Methods<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, method) in self.0.iter().enumerate() {
            write!(f, "{}{method}", if number == 0 { "" } else { "|" })?;
        }
        Ok(())
    }
}

/// The entries of a descriptor: `service=auth, user=*`.
struct Entries<'e>(&'e [(String, Glob)]);

impl fmt::Display for Entries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, glob)) in self.0.iter().enumerate() {
            write!(f, "{}{name}={glob}", if number == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

struct List<'l, T>(&'l [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if number == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn fits(written: &Match, effect: Effect, method: &str, lines: &[&'static str], query: &str) -> bool {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-plan", http::HeaderValue::from_static(line));
        }
        let facts = Facts {
            method: &method.parse().unwrap(),
            host: "a",
            path: "/",
            query,
            headers: &headers,
            claims: None,
            descriptor: None,
            tls_client: None,
            client: [127, 0, 0, 1].into(),
        };
        Matcher::new(written, effect).fails(&facts).is_none()
    }

    /// Whatever is said twice limits if one of the two would, and lets off if both would.
    #[test]
    fn what_can_be_read_in_two_ways_is_limited() {
        let name = HeaderName::from_static("x-plan");
        let header = Match { headers: vec![(name, Glob::new("free*"))], ..Match::default() };
        for (lines, limits, lets_off) in [
            (&["free"][..], true, true),
            (&["gold"], false, false),
            (&["gold", "free"], true, false),
            // The lines together fit the pattern, one of them alone does not.
            (&["free", "gold"], true, false),
            (&["free", "free-7"], true, true),
            (&["free, gold"], true, true),
            (&[], false, false),
        ] {
            assert_eq!(fits(&header, Effect::Limits, "GET", lines, ""), limits, "{lines:?}");
            assert_eq!(fits(&header, Effect::LetsOff, "GET", lines, ""), lets_off, "{lines:?}");
        }
        let query = Match { query: vec![("plan".to_owned(), Glob::new("free"))], ..Match::default() };
        for (text, limits, lets_off) in [
            ("plan=free", true, true),
            ("plan=gold&plan=free", true, false),
            ("plan=free&plan=gold", true, false),
            ("plan=free&pl%61n=fr%65e", true, true),
            ("", false, false),
        ] {
            assert_eq!(fits(&query, Effect::Limits, "GET", &[], text), limits, "{text}");
            assert_eq!(fits(&query, Effect::LetsOff, "GET", &[], text), lets_off, "{text}");
        }
        let method = Match { methods: vec![Method::POST], ..Match::default() };
        for (text, limits, lets_off) in [("POST", true, true), ("post", true, false), ("POSTS", false, false)]
        {
            assert_eq!(fits(&method, Effect::Limits, text, &[], ""), limits, "{text}");
            assert_eq!(fits(&method, Effect::LetsOff, text, &[], ""), lets_off, "{text}");
        }
        // Under `not` it is the other way round.
        let not = Match { not: Some(Box::new(header)), ..Match::default() };
        assert!(fits(&not, Effect::Limits, "GET", &["free", "gold"], ""));
        assert!(!fits(&not, Effect::LetsOff, "GET", &["gold", "free"], ""));
    }
}
