//! [`ConfigFault`]: what is wrong with a configuration and where. [`Faults`] gathers them, so that all are told
//! at once.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::rc::Rc;

/// Characters of a text that are shown in a fault.
const SHOWN: usize = 64;
/// Characters of a file's path that are shown in a fault.
const SHOWN_OF_PATH: usize = 200;
/// Characters of a whole message.
const LONGEST: usize = 400;

/// One thing that is wrong with a configuration, or likely wrong.
///
/// Shown on one line, whatever the file holds: `file:line:column: limits[2].rate: message (hint)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1; 0 where the whole file is meant.
    pub line: u32,
    /// The column in characters, from 1; 0 where the whole file is meant.
    pub column: u32,
    /// Where in the language: `limits[2].rate`; empty at the top.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = OneLine(f);
        out.write_str(&self.file)?;
        if self.line > 0 {
            write!(out, ":{}:{}", self.line, self.column)?;
        }
        out.write_str(": ")?;
        if !self.path.is_empty() {
            write!(out, "{}: ", self.path)?;
        }
        out.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(out, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigFault {}

/// Escapes what would break a line or steer a terminal.
struct OneLine<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            // U+202A to U+202E and U+2066 to U+2069 turn the direction of what follows.
            '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => write!(self.0, "{}", c.escape_unicode()),
            c if c.is_control() => write!(self.0, "{}", c.escape_default()),
            c => self.0.write_char(c),
        })
    }
}

/// A text as a fault shows it: quoted, and cut where it is long.
pub(super) fn shown(text: &str) -> String {
    format!("{:?}", short(text, SHOWN))
}

/// A file's path as a fault shows it: quoted, and where it is long cut at its front, for its end names the file.
pub(super) fn shown_path(path: &Path) -> String {
    let text = path.display().to_string();
    match text.char_indices().nth_back(SHOWN_OF_PATH) {
        Some((before, _)) => format!("{:?}", format!("…{}", text.get(before..).unwrap_or_default())),
        None => format!("{text:?}"),
    }
}

fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The nearest of some words, if one is near enough to be a slip of the pen.
pub(crate) fn nearest<'w>(written: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    if written.len() > SHOWN {
        return None;
    }
    let lower = written.to_ascii_lowercase();
    let near = (written.chars().count() / 3).clamp(1, 3);
    words
        .map(|word| (strsim::damerau_levenshtein(&lower, word), word))
        .filter(|(distance, _)| *distance <= near)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// A place in a file and in the language.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
    path: Option<Rc<Step>>,
    /// The variables of the environment that the value there came from.
    pub(super) filled: Option<Rc<str>>,
}

#[derive(Debug)]
struct Step {
    before: Option<Rc<Self>>,
    name: Name,
}

#[derive(Debug)]
enum Name {
    Field(String),
    Index(usize),
}

impl Place {
    /// The top of a file.
    pub(super) fn top(line: u32, column: u32) -> Self {
        Self { line, column, path: None, filled: None }
    }

    /// The same place in the language, somewhere else in the file.
    pub(super) fn moved(&self, line: u32, column: u32, filled: Option<Rc<str>>) -> Self {
        Self { line, column, path: self.path.clone(), filled }
    }

    /// A field of what is here; line and column stay.
    pub(super) fn field(&self, name: &str) -> Self {
        self.step(Name::Field(short(name, SHOWN)))
    }

    /// An element of the list that is here; line and column stay.
    pub(super) fn index(&self, index: usize) -> Self {
        self.step(Name::Index(index))
    }

    fn step(&self, name: Name) -> Self {
        let path = Some(Rc::new(Step { before: self.path.clone(), name }));
        Self { path, filled: None, ..self.clone() }
    }

    fn path(&self) -> String {
        let mut steps = Vec::new();
        let mut next = self.path.as_ref();
        while let Some(step) = next {
            steps.push(&step.name);
            next = step.before.as_ref();
        }
        let mut path = String::new();
        for name in steps.into_iter().rev() {
            match name {
                Name::Field(name) if path.is_empty() => path.push_str(name),
                Name::Field(name) => {
                    path.push('.');
                    path.push_str(name);
                }
                Name::Index(index) => {
                    path.push('[');
                    path.push_str(&index.to_string());
                    path.push(']');
                }
            }
        }
        path
    }
}

/// What was found wrong so far, and what likely is.
#[derive(Debug)]
pub(super) struct Faults {
    file: String,
    faults: Vec<ConfigFault>,
    warnings: Vec<ConfigFault>,
}

impl Faults {
    pub(super) fn new(file: &str) -> Self {
        Self { file: file.to_owned(), faults: Vec::new(), warnings: Vec::new() }
    }

    /// Something is wrong at `place`.
    pub(super) fn refuse(&mut self, place: &Place, message: impl AsRef<str>) {
        self.faults.push(self.fault(place, message.as_ref(), None));
    }

    /// Something is wrong at `place`, and this is what to do.
    pub(super) fn refuse_with(&mut self, place: &Place, message: impl AsRef<str>, hint: impl Into<String>) {
        self.faults.push(self.fault(place, message.as_ref(), Some(hint.into())));
    }

    /// Something at `place` is likely not what was meant.
    pub(super) fn warn(&mut self, place: &Place, message: impl AsRef<str>) {
        self.warnings.push(self.fault(place, message.as_ref(), None));
    }

    fn fault(&self, place: &Place, message: &str, hint: Option<String>) -> ConfigFault {
        let mut message = short(message, LONGEST);
        if let Some(variables) = &place.filled {
            message.push_str("; the value comes from ");
            message.push_str(variables);
        }
        ConfigFault {
            file: self.file.clone(),
            line: place.line,
            column: place.column,
            path: place.path(),
            message,
            hint,
        }
    }

    /// What was found, in the order of the file: the warnings, or else the faults.
    pub(super) fn into_result(self) -> Result<Vec<ConfigFault>, Vec<ConfigFault>> {
        let sorted = |mut faults: Vec<ConfigFault>| {
            // Stable, so that what was found first at a place is told first; a value that stands in several
            // places by an alias is told once for each.
            faults.sort_by_key(|fault| (fault.line, fault.column));
            faults
        };
        if self.faults.is_empty() { Ok(sorted(self.warnings)) } else { Err(sorted(self.faults)) }
    }
}
