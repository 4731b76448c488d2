//! Where a configuration's text comes from: files and the environment. The only file that reads either; what it
//! reads has bounds, and `${NAME}` is filled in after the text was parsed, so that no value can become more than
//! a value.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::fault::shown;

/// Most bytes of a configuration, of what the environment adds to it, and of a body that it names.
pub(super) const MOST_BYTES: usize = 1 << 20;

/// A variable of this process's environment; `None` if it is not set, or not in UTF-8.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The bytes of a file, or of a pipe.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_some(&File::open(path)?)
}

/// The bytes of a file, and of nothing but a file: a pipe would have to be waited for.
pub(crate) fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    read_some(&File::open(path)?)
}

fn read_some(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX);
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MOST_BYTES {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(bytes)
}

/// What became of a text with variables in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// There are none.
    Same,
    /// The text with their values, and how they were written.
    With(String, String),
}

/// Why a text can't be filled in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FillError {
    /// `${` without `}`.
    Open,
    /// What stands between the braces is no name.
    Name(String),
    /// The variable is not set and has no default.
    Unset(String),
    /// A default holds another `${`.
    Nested,
    /// The environment would add more than [`MOST_BYTES`].
    TooMuch,
}

impl FillError {
    /// What to do about it.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Open => Some("write $${ where ${ is meant as it stands"),
            Self::Name(_) => {
                Some("write ${NAME} or ${NAME:-default}, and $${ where ${ is meant as it stands")
            }
            Self::Unset(_) => Some("set it, or write ${NAME:-default}"),
            Self::Nested | Self::TooMuch => None,
        }
    }
}

impl fmt::Display for FillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("${ without }"),
            Self::Name(name) => write!(f, "{} is no name of a variable", shown(name)),
            Self::Unset(name) => write!(f, "the variable {} of the environment is not set", shown(name)),
            Self::Nested => f.write_str("a default can't hold another ${"),
            Self::TooMuch => f.write_str("the environment adds more than 1 MiB to the configuration"),
        }
    }
}

/// Fills in `${NAME}` and `${NAME:-default}`; `$${` stands for `${`. A default also replaces an empty value.
pub(super) fn fill(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Filled, FillError> {
    if !text.contains("${") {
        return Ok(Filled::Same);
    }
    let (mut filled, mut names) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            rest = after;
            continue;
        }
        filled.push_str(before);
        let (inside, after) = after.split_once('}').ok_or(FillError::Open)?;
        if inside.contains("${") {
            return Err(FillError::Nested);
        }
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(word) {
            return Err(FillError::Name(name.to_owned()));
        }
        match (variable(name), default) {
            (Some(value), None) => filled.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => filled.push_str(&value),
            (_, Some(default)) => filled.push_str(default),
            (None, None) => return Err(FillError::Unset(name.to_owned())),
        }
        let written = format!("${{{name}}}");
        if !names.contains(&written) {
            names.push(written);
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(Filled::With(filled, names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, FillError> {
        let variables = |name: &str| match name {
            "RATE" => Some("100/s".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("1\nlimits: []".to_owned()),
            _ => None,
        };
        fill(text, &variables).map(|filled| match filled {
            Filled::Same => text.to_owned(),
            Filled::With(text, _) => text,
        })
    }

    #[test]
    fn variables_are_filled_in() {
        for (text, becomes) in [
            ("100/s", "100/s"),
            ("$RATE", "$RATE"),
            ("${RATE}", "100/s"),
            ("<${RATE}|${RATE}>", "<100/s|100/s>"),
            ("${NONE:-5/min}", "5/min"),
            ("${NONE:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-7}", "7"),
            ("${RATE:-7}", "100/s"),
            ("$${RATE}", "${RATE}"),
            ("$${RATE} ${RATE}", "${RATE} 100/s"),
            ("${TRICK}", "1\nlimits: []"),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(becomes), "{text}");
        }
    }

    #[test]
    fn variables_that_are_none() {
        for (text, error) in [
            ("${NONE}", FillError::Unset("NONE".into())),
            ("${RATE", FillError::Open),
            ("${}", FillError::Name(String::new())),
            ("${1A}", FillError::Name("1A".into())),
            ("${A B}", FillError::Name("A B".into())),
            ("${NONE:-${RATE}}", FillError::Nested),
        ] {
            assert_eq!(filled(text), Err(error), "{text}");
        }
    }

    #[test]
    fn what_was_filled_in_is_named() {
        let all = |name: &str| Some(name.to_lowercase());
        assert_eq!(fill("${A}/${B} ${A}", &all), Ok(Filled::With("a/b a".into(), "${A}, ${B}".into())));
    }
}
