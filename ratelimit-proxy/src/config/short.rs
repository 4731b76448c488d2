//! A limit on one line: `5/min sliding_window by client.ip on POST /login`.
//!
//! ```text
//! LIMIT  = QUOTA [ALGORITHM] [burst N] [by PART, PART …] [on [METHOD, METHOD …] [PATTERN]] [as NAME]
//! QUOTA  = RATE | N at once
//! PART   = VALUE [or VALUE …]            the first that a request has
//! ```
//!
//! What follows the quota may stand in any order. What is read becomes a [`Limit`] of the long form, with the
//! place of every word, so that both forms are checked by the same rules.

use std::fmt;

use http::Method;
use ratelimit_core::Rate;
use serde_json::{Value, json};

use super::build;
use super::decode::{At, Decode, Either, Field, Here, Many};
use super::fault::{ConfigFault, Faults, Place, nearest, shown};
use super::leaf::{self, Whole};
use super::model::LimitConfig;
use super::raw::{AlgorithmWord, First, KeyPart, Limit, LimitName, Match};
use super::schema::Shapes;
use super::words::{PathPattern, Source};

/// The longest limit on a line, in bytes.
const LONGEST: usize = 4096;

/// Why a line is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortError {
    /// The column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for ShortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As a fault of a file is shown, on one line whatever the text holds.
        let fault = ConfigFault {
            file: format!("column {}", self.column),
            line: 0,
            column: 0,
            path: String::new(),
            message: self.message.clone(),
            hint: self.hint.clone(),
        };
        fault.fmt(f)
    }
}

impl std::error::Error for ShortError {}

/// The limit that a line says: `100/s by client.ip`. Without `as NAME` it is called `limit-` and `number`.
///
/// ```
/// use ratelimit_proxy::config::limit_from_short;
/// let limit = limit_from_short("5/min by client.ip on POST /login", 2)?;
/// assert_eq!(limit.limit.name(), "limit-2");
/// assert!(limit_from_short("5/min by clint.ip", 1).unwrap_err().to_string().contains("client.ip?"));
/// # Ok::<(), ratelimit_proxy::config::ShortError>(())
/// ```
///
/// # Errors
/// When it says none, with the column of the first word that is wrong.
pub fn limit_from_short(text: &str, number: usize) -> Result<LimitConfig, ShortError> {
    let mut faults = Faults::new("");
    let at = |column: usize| Place::top(1, u32::try_from(column + 1).unwrap_or(u32::MAX));
    let limit = parse(text, &at, &mut faults).and_then(|raw| build::limit(&raw, number, &at(0), &mut faults));
    match (faults.into_result(), limit) {
        (Ok(_), Some(limit)) => Ok(limit),
        (Ok(_), None) => Err(ShortError { column: 1, message: "this is no limit".to_owned(), hint: None }),
        (Err(faults), _) => Err(faults.into_iter().next().map_or_else(
            || ShortError { column: 1, message: "this is no limit".to_owned(), hint: None },
            |fault| ShortError { column: fault.column, message: fault.message, hint: fault.hint },
        )),
    }
}

/// A limit on one line, within a file.
#[derive(Debug)]
pub(super) struct Short(pub(super) Limit);

impl Decode for Short {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let Some(scalar) = here.scalar() else {
            here.wrong("a limit", faults);
            return None;
        };
        let at = |column: usize| match (scalar.inset, u32::try_from(column)) {
            (Some(inset), Ok(column)) => {
                let column = here.place.column.saturating_add(inset).saturating_add(column);
                here.place.moved(here.place.line, column, None)
            }
            _ => here.place.clone(),
        };
        parse(&scalar.text, &at, faults).map(Self)
    }

    fn schema(_: &mut Shapes) -> Value {
        json!({
            "description": "A limit on one line: QUOTA [ALGORITHM] [burst N] [by KEY] [on METHODS PATH] [as NAME].",
            "type": "string",
            "examples": ["100/s by client.ip", "5/min by client.ip on POST /login", "10 at once by header.x-api-key"],
        })
    }
}

/// Reads a line; `at` is the place of a column, counted in characters from 0. `None` where something was refused.
fn parse(text: &str, at: &dyn Fn(usize) -> Place, faults: &mut Faults) -> Option<Limit> {
    if text.len() > LONGEST {
        faults.refuse(&at(0), format!("a limit on a line has at most {LONGEST} bytes"));
        return None;
    }
    let words = words(text);
    let mut reader = Reader { words: &words, next: 0, end: text.trim_end().chars().count(), at, faults };
    reader.limit()
}

/// A word and its column.
#[derive(Clone, Copy)]
struct Word<'t> {
    text: &'t str,
    column: usize,
}

/// The words of a line. A comma is a word of its own, except in a path, where it is part of it.
fn words(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut column = 0;
    for piece in text.split_inclusive(char::is_whitespace) {
        let word = piece.trim_end();
        if word.starts_with('/') {
            words.push(Word { text: word, column });
        } else {
            let mut inner = column;
            for part in word.split_inclusive(',') {
                let name = part.trim_end_matches(',');
                let length = name.chars().count();
                if !name.is_empty() {
                    words.push(Word { text: name, column: inner });
                }
                if part.len() > name.len() {
                    words.push(Word { text: ",", column: inner + length });
                }
                inner += length + usize::from(part.len() > name.len());
            }
        }
        column += piece.chars().count();
    }
    words
}

const CLAUSES: [&str; 4] = ["by", "on", "burst", "as"];
const ALGORITHMS: [(&str, AlgorithmWord); 4] = [
    ("token_bucket", AlgorithmWord::TokenBucket),
    ("sliding_window", AlgorithmWord::SlidingWindow),
    ("fixed_window", AlgorithmWord::FixedWindow),
    ("concurrency", AlgorithmWord::Concurrency),
];

struct Reader<'a, 't> {
    words: &'a [Word<'t>],
    next: usize,
    /// The column behind the last word.
    end: usize,
    at: &'a dyn Fn(usize) -> Place,
    faults: &'a mut Faults,
}

impl<'t> Reader<'_, 't> {
    fn peek(&self) -> Option<Word<'t>> {
        self.words.get(self.next).copied()
    }

    fn take(&mut self) -> Option<Word<'t>> {
        let word = self.peek();
        self.next += usize::from(word.is_some());
        word
    }

    fn takes(&mut self, text: &str) -> bool {
        let found = self.peek().is_some_and(|word| word.text == text);
        self.next += usize::from(found);
        found
    }

    /// The next word, or a fault at the end of the line.
    fn needs(&mut self, what: &str) -> Option<Word<'t>> {
        let word = self.take();
        if word.is_none() {
            self.faults.refuse(&(self.at)(self.end), format!("{what} is missing"));
        }
        word
    }

    fn given<T>(&self, word: Word<'_>, value: T) -> At<T> {
        At { place: (self.at)(word.column), value }
    }

    fn number(&mut self, what: &str) -> Option<At<Whole<1, { u32::MAX }>>> {
        let word = self.needs(what)?;
        let digits = word.text.bytes().all(|b| b.is_ascii_digit());
        match word.text.parse() {
            Ok(number) if digits && number > 0 => Some(self.given(word, Whole(number))),
            _ => {
                let message = format!("{} is not a whole number of at least 1", shown(word.text));
                self.faults.refuse(&(self.at)(word.column), message);
                None
            }
        }
    }

    fn limit(&mut self) -> Option<Limit> {
        let mut limit = Limit::default();
        self.quota(&mut limit)?;
        while let Some(word) = self.take() {
            let place = (self.at)(word.column);
            let twice = match word.text {
                "by" => !put(&mut limit.key, self.key(word)?),
                "on" => !put(&mut limit.r#match, self.target(word)?),
                "burst" => !put(&mut limit.burst, self.number("a number behind burst")?),
                "as" => !put(&mut limit.name, self.name()?),
                text => match ALGORITHMS.iter().find(|(name, _)| *name == text) {
                    Some((_, algorithm)) => !put(&mut limit.algorithm, self.given(word, *algorithm)),
                    None => return self.unexpected(word),
                },
            };
            if twice {
                self.faults.refuse(&place, format!("{} stands here a second time", shown(word.text)));
                return None;
            }
        }
        Some(limit)
    }

    fn unexpected(&mut self, word: Word<'_>) -> Option<Limit> {
        let known = CLAUSES.into_iter().chain(ALGORITHMS.iter().map(|(name, _)| *name));
        let hint = match nearest(word.text, known) {
            Some(near) => format!("did you mean {near}?"),
            None if Method::try_from(word.text)
                .is_ok_and(|m| m.as_str().chars().all(|c| c.is_ascii_uppercase()))
                || word.text.starts_with('/') =>
            {
                "write on before methods and a path".to_owned()
            }
            None => "write it as in 5/min by client.ip on POST /login".to_owned(),
        };
        self.faults.refuse_with(
            &(self.at)(word.column),
            format!("{} is not a word of a limit", shown(word.text)),
            hint,
        );
        None
    }

    fn quota(&mut self, limit: &mut Limit) -> Option<()> {
        let word = self.needs("a rate such as 100/s, or 10 at once,")?;
        let next = |ahead: usize| self.words.get(self.next + ahead).map(|word| word.text);
        if next(0) == Some("at") && next(1) == Some("once") {
            self.next -= 1;
            limit.concurrency = Field::Given(self.number("a number")?);
            self.next += 2;
            return Some(());
        }
        match word.text.parse::<Rate>() {
            Ok(rate) => {
                limit.rate = Field::Given(self.given(word, rate));
                Some(())
            }
            Err(error) => {
                let place = (self.at)(word.column);
                if word.text.bytes().all(|b| b.is_ascii_digit()) {
                    let hint = format!("write {0}/s, or {0} at once", word.text);
                    self.faults.refuse_with(&place, format!("{} is not a rate", shown(word.text)), hint);
                } else {
                    self.faults.refuse(&place, error.to_string());
                }
                None
            }
        }
    }

    fn key(&mut self, by: Word<'_>) -> Option<At<Many<KeyPart>>> {
        let mut parts = vec![self.part()?];
        while self.takes(",") {
            parts.push(self.part()?);
        }
        Some(self.given(by, Many(parts)))
    }

    fn part(&mut self) -> Option<At<KeyPart>> {
        let word = self.needs("what to count by, such as client.ip,")?;
        let first = self.source(word)?;
        if self.peek().is_none_or(|word| word.text != "or") {
            return Some(At { place: first.place, value: Either::Word(first.value) });
        }
        let mut sources = vec![first];
        while self.takes("or") {
            let next = self.needs("what to count by behind or")?;
            sources.push(self.source(next)?);
        }
        let first = First { first: Field::Given(self.given(word, Many(sources))) };
        Some(self.given(word, Either::Section(first)))
    }

    fn source(&mut self, word: Word<'_>) -> Option<At<Source>> {
        let place = (self.at)(word.column);
        let source = leaf::source(word.text, &place, self.faults)?;
        Some(At { place, value: source })
    }

    fn target(&mut self, on: Word<'_>) -> Option<At<Match>> {
        let mut target = Match::default();
        let mut methods = Vec::new();
        let stops = |word: &Word<'_>| {
            CLAUSES.contains(&word.text) || ALGORITHMS.iter().any(|(name, _)| *name == word.text)
        };
        while let Some(word) = self.peek().filter(|word| !word.text.starts_with('/') && !stops(word)) {
            self.next += 1;
            match leaf::method(word.text) {
                Ok(method) => methods.push(self.given(word, method)),
                Err(hint) => {
                    let message = format!("{} is neither a method nor a path", shown(word.text));
                    self.faults.refuse_with(&(self.at)(word.column), message, hint);
                    return None;
                }
            }
            if !self.takes(",") {
                break;
            }
        }
        if let Some(word) = self.peek().filter(|word| word.text.starts_with('/')) {
            self.next += 1;
            match word.text.parse::<PathPattern>() {
                Ok(pattern) => target.path = Field::Given(self.given(word, pattern)),
                Err(error) => {
                    let message = format!("{}: {error}", shown(word.text));
                    self.faults.refuse(&(self.at)(word.column), message);
                    return None;
                }
            }
        } else if methods.is_empty() {
            self.faults.refuse(&(self.at)(on.column), "on needs methods or a path, such as on POST /login");
            return None;
        }
        if !methods.is_empty() {
            target.methods = Field::Given(self.given(on, Many(methods)));
        }
        Some(self.given(on, target))
    }

    fn name(&mut self) -> Option<At<LimitName>> {
        let word = self.needs("a name behind as")?;
        match LimitName::parse(word.text) {
            Some(name) => Some(self.given(word, name)),
            None => {
                let message = format!("{} is not {}", shown(word.text), LimitName::WANTED);
                self.faults.refuse(&(self.at)(word.column), message);
                None
            }
        }
    }
}

/// Gives a field its value, unless it has one.
fn put<T>(field: &mut Field<T>, value: At<T>) -> bool {
    let free = field.is_absent();
    if free {
        *field = Field::Given(value);
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cost, Missing};
    use ratelimit_core::Algorithm;

    fn read(text: &str) -> LimitConfig {
        limit_from_short(text, 7).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn key(limit: &LimitConfig) -> String {
        limit.key.iter().map(ToString::to_string).collect::<Vec<_>>().join(" + ")
    }

    #[test]
    fn limits_on_a_line() {
        let limit = read("100/s by client.ip");
        assert_eq!(limit.limit.name(), "limit-7");
        assert_eq!(limit.limit.spec().rate, "100/s".parse().ok());
        assert_eq!(limit.limit.spec().algorithm, Algorithm::TokenBucket);
        assert_eq!(key(&limit), "client.ip");
        assert!(limit.matches.path.is_none() && limit.matches.methods.is_empty());
        assert_eq!((limit.missing, limit.cost, limit.off), (Missing::Share, Cost::Fixed(1), false));

        let limit = read("5/min sliding_window by client.ip on POST /login");
        assert_eq!(limit.limit.spec().algorithm, Algorithm::SlidingWindow);
        assert_eq!(limit.matches.methods, [Method::POST]);
        assert_eq!(limit.matches.path.unwrap().to_string(), "/login");

        let limit = read("10 at once by header.x-api-key");
        assert_eq!(limit.limit.spec().permits, Some(10));
        assert_eq!(limit.limit.spec().algorithm, Algorithm::Concurrency);

        let limit = read("100/s");
        assert!(limit.key.is_empty());

        let limit =
            read("100/10s burst 7 by header.x-api-key, path.resource on PUT,POST /v1/{resource}/a,b as plan");
        assert_eq!((limit.limit.name(), limit.limit.capacity()), ("plan", 7));
        assert_eq!(key(&limit), "header.x-api-key + path.resource");
        assert_eq!(limit.matches.methods, [Method::PUT, Method::POST]);
        assert_eq!(limit.matches.path.unwrap().to_string(), "/v1/{resource}/a,b");

        assert_eq!(
            key(&read("1/h by header.a or client.ip , method")),
            "first of header.a, client.ip + method"
        );
        assert_eq!(read("1/month fixed_window by host").limit.spec().algorithm, Algorithm::FixedWindow);
        assert_eq!(read("1/s on GET , HEAD").matches.methods.len(), 2);
        assert_eq!(read("1/s on GET by host").matches.methods.len(), 1);
        assert_eq!(key(&read("1/s on /a by host")), "host");
    }

    #[test]
    fn lines_that_are_none() {
        for (text, shown) in [
            ("", "column 1: a rate such as 100/s, or 10 at once, is missing"),
            ("100", r#"column 1: "100" is not a rate (write 100/s, or 100 at once)"#),
            ("0/s", r#"column 1: "0" is not a count: a whole number from 1 to 4294967295"#),
            ("0 at once", r#"column 1: "0" is not a whole number of at least 1"#),
            (
                "5/m by client.ip",
                r#"column 1: there is no unit "m"; did you mean "min"? The units are s, min, h, day, week and month"#,
            ),
            (
                "5/min by clint.ip",
                "column 10: \"clint.ip\" is not a value of a request: write client.ip, header.NAME, query.NAME, \
                 cookie.NAME, path.NAME, jwt.CLAIM, basic.user, digest.user, tls.client, method, host, path \
                 or descriptor.NAME (did you mean client.ip?)",
            ),
            ("5/min by", "column 9: what to count by, such as client.ip, is missing"),
            ("5/min by host,", "column 15: what to count by, such as client.ip, is missing"),
            ("5/min by host or", "column 17: what to count by behind or is missing"),
            ("5/min bu host", r#"column 7: "bu" is not a word of a limit (did you mean by?)"#),
            (
                "5/min by host POST /login",
                r#"column 15: "POST" is not a word of a limit (write on before methods and a path)"#,
            ),
            ("5/min on post /a", r#"column 10: "post" is neither a method nor a path (did you mean POST?)"#),
            ("5/min on", "column 7: on needs methods or a path, such as on POST /login"),
            ("5/min by host by path", r#"column 15: "by" stands here a second time"#),
            (
                "5/min on /a/**/b",
                "column 10: \"/a/**/b\": ** stands for the rest of a path: nothing can follow it",
            ),
            (
                "5/min as a/b",
                r#"column 10: "a/b" is not a name of a limit: write 1 to 64 of A-Z a-z 0-9 _ . -"#,
            ),
            ("5/min burst x", r#"column 13: "x" is not a whole number of at least 1"#),
            ("5 at once burst 3", "column 17: concurrency has no burst (only token_bucket has one)"),
            ("é 5/min", "column 1: \"é\" is not a rate: write COUNT/UNIT, such as 100/s or 5/15min"),
            (
                "1/s by é",
                "column 8: \"é\" is not a value of a request: write client.ip, header.NAME, query.NAME, \
                 cookie.NAME, path.NAME, jwt.CLAIM, basic.user, digest.user, tls.client, method, host, path \
                 or descriptor.NAME",
            ),
        ] {
            assert_eq!(limit_from_short(text, 1).unwrap_err().to_string(), shown, "{text}");
        }
    }
}
