//! The text as a tree of values with their places. YAML is read here and nowhere else; bounds on size, depth and
//! aliases hold before anything looks at the values.

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::fault::{Faults, Place, shown};
use super::source::{self, FillError, Filled};

/// How deep values may lie within each other, counted through aliases.
const MOST_DEPTH: usize = 48;
/// How many values aliases may stand for, all together.
const MOST_ALIASED: usize = 100_000;

/// A value.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) kind: Kind,
    /// The variables it was filled in from.
    pub(super) filled: Option<Rc<str>>,
    /// Values in it, itself included and aliases followed.
    size: usize,
    depth: usize,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// What could not be filled in from the environment, and why. Told by who reads it and knows its path.
    Unfilled(FillError),
    Scalar(Scalar),
    List(Vec<Rc<Node>>),
    Map(Vec<(Key, Rc<Node>)>),
}

/// A text, a number or a switch; which of them it is, the place where it stands decides.
#[derive(Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Without quotes, or filled in.
    pub(super) plain: bool,
    /// How far behind the place of the value its first character stands; `None` where it spans lines.
    pub(super) inset: Option<u32>,
}

/// The name of a field.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) line: u32,
    pub(super) column: u32,
    /// The line of the same name before, if there was one.
    pub(super) again: Option<u32>,
}

/// Reads a text. `None` if that went wrong; what is said in `faults`.
pub(super) fn read(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    faults: &mut Faults,
) -> Option<Rc<Node>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > source::MOST_BYTES {
        faults.refuse(&Place::default(), "larger than 1 MiB");
        return None;
    }
    if let Some(at) = text.find('\0') {
        let (line, column) = position(text.get(..at).unwrap_or_default());
        faults.refuse(&Place::top(line, column), "a zero byte: this is no text");
        return None;
    }
    let mut builder =
        Builder { env, faults, open: Vec::new(), anchors: HashMap::new(), aliased: 0, added: 0 };
    let mut root = None;
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let place = place(error.marker().line(), error.marker().col());
                builder.faults.refuse(&place, format!("not YAML: {}", error.info()));
                return None;
            }
        };
        if matches!(event, Event::DocumentStart(_)) && root.is_some() {
            let place = place(span.start.line(), span.start.col());
            builder.faults.refuse(&place, "a second document: a configuration is one");
            return None;
        }
        match builder.event(event, span) {
            Ok(Some(node)) => root = Some(node),
            Ok(None) => {}
            Err(Stop) => return None,
        }
    }
    if root.as_ref().is_none_or(|root| matches!(root.kind, Kind::Null)) {
        faults.refuse_with(
            &Place::top(1, 1),
            "the configuration is empty",
            "it needs at least an upstream and limits",
        );
        return None;
    }
    root
}

/// The line and column that follow a text.
pub(super) fn position(before: &str) -> (u32, u32) {
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (narrow(line), narrow(column))
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A place as the parser counts them: columns from 0.
fn place(line: usize, column: usize) -> Place {
    Place::top(narrow(line), narrow(column.saturating_add(1)))
}

/// Reading can't go on; why is said.
struct Stop;

struct Builder<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    faults: &'a mut Faults,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    aliased: usize,
    /// Bytes that the environment added.
    added: usize,
}

/// A list or map whose end is not reached.
struct Open {
    anchor: usize,
    place: Place,
    size: usize,
    depth: usize,
    content: Content,
}

enum Content {
    List(Vec<Rc<Node>>),
    Map { entries: Vec<(Key, Rc<Node>)>, key: Option<Key>, lines: HashMap<String, u32> },
}

impl Builder<'_> {
    /// The root, once it is complete.
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<Option<Rc<Node>>, Stop> {
        let at = place(span.start.line(), span.start.col());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let bare = style == ScalarStyle::Plain && !self.is_text(tag.as_deref(), &at);
                if self.wants_key() {
                    return self.key(text.into_owned(), &at).map(|()| None);
                }
                let one_line = span.start.line() == span.end.line() && anchor == 0 && tag.is_none();
                let node = self.scalar(text.into_owned(), bare, style, one_line, &at);
                self.done(anchor, node)
            }
            Event::SequenceStart(anchor, tag) => {
                self.is_text(tag.as_deref(), &at);
                self.start(anchor, at, Content::List(Vec::new())).map(|()| None)
            }
            Event::MappingStart(anchor, tag) => {
                self.is_text(tag.as_deref(), &at);
                let content = Content::Map { entries: Vec::new(), key: None, lines: HashMap::new() };
                self.start(anchor, at, content).map(|()| None)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(anchor, &at),
            _ => Ok(None),
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Map { key: None, .. }, .. }))
    }

    /// Whether a tag says that a value is text; other tags are refused.
    fn is_text(&mut self, tag: Option<&Tag>, at: &Place) -> bool {
        let Some(tag) = tag else { return false };
        let text = tag.is_yaml_core_schema() && tag.suffix == "str";
        if !text {
            self.faults.refuse(at, format!("{}: a configuration has no tags", shown(&tag.to_string())));
        }
        text
    }

    fn key(&mut self, text: String, at: &Place) -> Result<(), Stop> {
        if let Some(Open { content: Content::Map { key, lines, .. }, .. }) = self.open.last_mut() {
            let again = lines.insert(text.clone(), at.line);
            *key = Some(Key { text, line: at.line, column: at.column, again });
        }
        Ok(())
    }

    fn scalar(&mut self, text: String, bare: bool, style: ScalarStyle, one_line: bool, at: &Place) -> Node {
        let inset = match style {
            _ if !one_line => None,
            ScalarStyle::Plain => Some(0),
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Some(1),
            ScalarStyle::Literal | ScalarStyle::Folded => None,
        };
        let mut filled = None;
        let kind = match source::fill(&text, self.env) {
            Ok(Filled::Same) if bare && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") => {
                Kind::Null
            }
            Ok(Filled::Same) => Kind::Scalar(Scalar { text, plain: bare, inset }),
            Ok(Filled::With(text, variables)) => {
                filled = Some(variables.into());
                self.added = self.added.saturating_add(text.len());
                if self.added > source::MOST_BYTES {
                    Kind::Unfilled(FillError::TooMuch)
                } else {
                    Kind::Scalar(Scalar { text, plain: true, inset: None })
                }
            }
            Err(error) => Kind::Unfilled(error),
        };
        Node { line: at.line, column: at.column, kind, filled, size: 1, depth: 1 }
    }

    fn start(&mut self, anchor: usize, place: Place, content: Content) -> Result<(), Stop> {
        if self.wants_key() {
            self.faults.refuse(&place, "the name of a field is one word, not a list or a section");
            return Err(Stop);
        }
        if self.open.len() >= MOST_DEPTH {
            self.faults
                .refuse(&place, format!("more than {MOST_DEPTH} lists and sections within each other"));
            return Err(Stop);
        }
        self.open.push(Open { anchor, place, size: 1, depth: 1, content });
        Ok(())
    }

    fn end(&mut self) -> Result<Option<Rc<Node>>, Stop> {
        let Some(open) = self.open.pop() else { return Ok(None) };
        let kind = match open.content {
            Content::List(items) => Kind::List(items),
            Content::Map { entries, .. } => Kind::Map(entries),
        };
        let (line, column) = (open.place.line, open.place.column);
        self.done(open.anchor, Node { line, column, kind, filled: None, size: open.size, depth: open.depth })
    }

    fn alias(&mut self, anchor: usize, at: &Place) -> Result<Option<Rc<Node>>, Stop> {
        if self.wants_key() {
            self.faults.refuse(at, "the name of a field can't be an alias");
            return Err(Stop);
        }
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            self.faults.refuse(at, "an alias of what it stands in");
            return Err(Stop);
        };
        self.aliased = self.aliased.saturating_add(node.size);
        if self.aliased > MOST_ALIASED || self.open.len().saturating_add(node.depth) > MOST_DEPTH {
            self.faults.refuse(at, format!("aliases stand for more than {MOST_ALIASED} values"));
            return Err(Stop);
        }
        Ok(self.put(node))
    }

    fn done(&mut self, anchor: usize, node: Node) -> Result<Option<Rc<Node>>, Stop> {
        let node = Rc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        Ok(self.put(node))
    }

    /// Gives a value to what it stands in, or back if it stands in nothing.
    fn put(&mut self, node: Rc<Node>) -> Option<Rc<Node>> {
        let Some(open) = self.open.last_mut() else { return Some(node) };
        open.size = open.size.saturating_add(node.size);
        open.depth = open.depth.max(node.depth.saturating_add(1));
        match &mut open.content {
            Content::List(items) => items.push(node),
            Content::Map { entries, key, .. } => entries.extend(key.take().map(|key| (key, node))),
        }
        None
    }
}
