//! From a tree of values to sections, lists and words, with all faults on the way. [`section!`] and [`choice!`]
//! are the one definition of a section or a word: they decode it, describe it in the schema and know its
//! nearest names, so that the three can't differ.

use std::ops::Deref;
use std::rc::Rc;

use serde_json::{Value, json};

use super::fault::{Faults, Place};
use super::schema::Shapes;
use super::tree::{Key, Kind, Node, Scalar};

/// What can be read from a value, and what its shape is.
pub(super) trait Decode: Sized {
    /// Reads a value; `None` if it is refused, and `faults` says why.
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self>;
    /// The JSON Schema of such a value.
    fn schema(shapes: &mut Shapes) -> Value;
}

/// A value and its place.
#[derive(Debug)]
pub(super) struct Here<'n> {
    pub(super) node: &'n Node,
    pub(super) place: Place,
}

impl<'n> Here<'n> {
    /// The top of the tree.
    pub(super) fn top(node: &'n Node) -> Self {
        Self { node, place: Place::top(node.line, node.column) }
    }

    fn within(&self, node: &'n Node, place: &Place) -> Self {
        Here { node, place: place.moved(node.line, node.column, node.filled.clone()) }
    }

    /// The elements, if it is a list.
    pub(super) fn items(&self) -> Option<impl Iterator<Item = Self>> {
        let Kind::List(items) = &self.node.kind else { return None };
        Some(items.iter().enumerate().map(|(index, node)| self.within(node, &self.place.index(index))))
    }

    /// The fields, if it is a section: name, place of the name, value. A name that stands there a second time
    /// is refused.
    pub(super) fn fields(&self, faults: &mut Faults) -> Option<Vec<(&'n str, Place, Self)>> {
        let Kind::Map(entries) = &self.node.kind else { return None };
        for (key, _) in entries {
            if let Some(line) = key.again {
                let place = self.place.field(&key.text).moved(key.line, key.column, None);
                faults.refuse(&place, format!("stands here a second time; the first is in line {line}"));
            }
        }
        let field = |(key, node): &'n (Key, Rc<Node>)| {
            let place = self.place.field(&key.text).moved(key.line, key.column, None);
            let value = self.within(node, &place);
            (key.text.as_str(), place, value)
        };
        Some(entries.iter().map(field).collect())
    }

    /// The text, if it is one or could be.
    pub(super) fn scalar(&self) -> Option<&'n Scalar> {
        match &self.node.kind {
            Kind::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// Refuses what is here because it is none of what it could be.
    pub(super) fn wrong(&self, wanted: &str, faults: &mut Faults) {
        let found = match &self.node.kind {
            Kind::Unfilled(error) => {
                return match error.hint() {
                    Some(hint) => faults.refuse_with(&self.place, error.to_string(), hint),
                    None => faults.refuse(&self.place, error.to_string()),
                };
            }
            Kind::Null => {
                return faults.refuse_with(&self.place, "has no value", "give it one, or leave it out");
            }
            Kind::Scalar(scalar) => super::fault::shown(&scalar.text),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a section".to_owned(),
        };
        faults.refuse(&self.place, format!("{found} is not {wanted}"));
    }
}

/// Something with the place where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) place: Place,
    pub(super) value: T,
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Decode> At<T> {
    pub(super) fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        T::decode(here, faults).map(|value| Self { place: here.place.clone(), value })
    }
}

/// A field of a section. That one was refused must not look as if it were absent: nobody should be told that a
/// limit needs a rate where its rate was misspelt.
#[derive(Clone, Debug, Default)]
pub(super) enum Field<T> {
    #[default]
    Absent,
    Broken,
    Given(At<T>),
}

impl<T> Field<T> {
    pub(super) fn get(&self) -> Option<&At<T>> {
        match self {
            Self::Given(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    pub(super) fn is_broken(&self) -> bool {
        matches!(self, Self::Broken)
    }
}

impl<T: Decode> Field<T> {
    /// Takes the first value that a field has; a second is read for its own faults.
    pub(super) fn take(&mut self, here: &Here<'_>, faults: &mut Faults) {
        let value = At::decode(here, faults).map_or(Self::Broken, Self::Given);
        if self.is_absent() {
            *self = value;
        }
    }
}

/// A field as the schema and the nearest names know it.
#[derive(Debug)]
pub(super) struct FieldShape {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) required: bool,
    pub(super) schema: fn(&mut Shapes) -> Value,
}

/// The name in the language of a field of a section.
pub(super) const fn word(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// Refuses a field that a section does not have.
pub(super) fn unknown<'w>(
    name: &str,
    place: &Place,
    known: impl Iterator<Item = &'w str> + Clone,
    faults: &mut Faults,
) {
    let hint = match super::fault::nearest(name, known.clone()) {
        Some(near) => format!("did you mean {near}?"),
        None if name == "<<" => "YAML 1.2 has no merge keys; an alias can stand for a whole value".to_owned(),
        None => format!("there are: {}", known.collect::<Vec<_>>().join(", ")),
    };
    faults.refuse_with(place, "there is no such field", hint);
}

/// A section: a struct of [`Field`]s. `[required]` fields must be there.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $( $(#[doc = $doc:literal])+ $field:ident: $type:ty $([$mark:ident])? ),+ $(,)?
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Default)]
        pub(in crate::config) struct $name {
            $( $(#[doc = $doc])+ pub(in crate::config) $field: $crate::config::decode::Field<$type>, )+
        }

        impl $name {
            const FIELDS: &'static [$crate::config::decode::FieldShape] = &[
                $( $crate::config::decode::FieldShape {
                    name: $crate::config::decode::word(stringify!($field)),
                    about: concat!($($doc, "\n"),+),
                    required: section!(@required $($mark)?),
                    schema: <$type as $crate::config::decode::Decode>::schema,
                }, )+
            ];
        }

        impl $crate::config::decode::Decode for $name {
            fn decode(
                here: &$crate::config::decode::Here<'_>,
                faults: &mut $crate::config::fault::Faults,
            ) -> Option<Self> {
                let mut section = Self::default();
                let Some(fields) = here.fields(faults) else {
                    here.wrong("a section", faults);
                    return None;
                };
                for (name, place, value) in fields {
                    let known = Self::FIELDS.iter().map(|field| field.name);
                    if !known.clone().any(|known| known == name) {
                        $crate::config::decode::unknown(name, &place, known, faults);
                    }
                    $( if name == $crate::config::decode::word(stringify!($field)) {
                        section.$field.take(&value, faults);
                    } )+
                }
                $( if section!(@required $($mark)?) && section.$field.is_absent() {
                    let name = $crate::config::decode::word(stringify!($field));
                    faults.refuse(&here.place, format!("{name} is missing"));
                    section.$field = $crate::config::decode::Field::Broken;
                } )+
                Some(section)
            }

            fn schema(shapes: &mut $crate::config::schema::Shapes) -> serde_json::Value {
                shapes.section(stringify!($name), concat!($($about, "\n"),+), Self::FIELDS)
            }
        }
    };
    (@required required) => { true };
    (@required $($other:ident)?) => { false };
}

/// One of several words.
macro_rules! choice {
    (
        $(#[doc = $about:literal])+
        $name:ident { $( $(#[doc = $doc:literal])+ $variant:ident = $word:literal ),+ $(,)? }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::config) enum $name { $( $(#[doc = $doc])+ $variant, )+ }

        impl $crate::config::decode::Decode for $name {
            fn decode(
                here: &$crate::config::decode::Here<'_>,
                faults: &mut $crate::config::fault::Faults,
            ) -> Option<Self> {
                const WORDS: &[&str] = &[$($word),+];
                let Some(scalar) = here.scalar() else {
                    here.wrong(&format!("one of {}", WORDS.join(", ")), faults);
                    return None;
                };
                match scalar.text.as_str() {
                    $( $word => Some(Self::$variant), )+
                    other => {
                        let hint = $crate::config::fault::nearest(other, WORDS.iter().copied())
                            .map_or_else(|| WORDS.join(", "), |near| format!("did you mean {near}?"));
                        let message = format!("there is no {}", $crate::config::fault::shown(other));
                        faults.refuse_with(&here.place, message, hint);
                        None
                    }
                }
            }

            fn schema(_: &mut $crate::config::schema::Shapes) -> serde_json::Value {
                $crate::config::schema::words(&[$(($word, concat!($($doc, "\n"),+))),+])
            }
        }
    };
}

pub(super) use {choice, section};

/// A list; what is refused in it is left out.
#[derive(Debug)]
pub(super) struct Items<T>(pub(super) Vec<At<T>>);

impl<T: Decode> Decode for Items<T> {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let Some(items) = here.items() else {
            here.wrong("a list", faults);
            return None;
        };
        Some(Self(items.filter_map(|item| At::decode(&item, faults)).collect()))
    }

    fn schema(shapes: &mut Shapes) -> Value {
        json!({"type": "array", "items": T::schema(shapes)})
    }
}

/// One or several: a value, or a list of at least one. All of them, or it is refused.
#[derive(Debug)]
pub(super) struct Many<T>(pub(super) Vec<At<T>>);

impl<T: Decode> Decode for Many<T> {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let Some(items) = here.items() else {
            return At::decode(here, faults).map(|one| Self(vec![one]));
        };
        // All are read before any is missed, for the sake of their faults.
        let items: Vec<_> = items.map(|item| At::decode(&item, faults)).collect();
        if items.is_empty() {
            faults.refuse_with(&here.place, "an empty list", "leave the field out");
            return None;
        }
        items.into_iter().collect::<Option<_>>().map(Self)
    }

    fn schema(shapes: &mut Shapes) -> Value {
        let one = T::schema(shapes);
        json!({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]})
    }
}

/// A word, or a section that says more.
#[derive(Debug)]
pub(super) enum Either<W, S> {
    Word(W),
    Section(S),
}

impl<W: Decode, S: Decode> Decode for Either<W, S> {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        if let Kind::Map(_) = here.node.kind {
            return S::decode(here, faults).map(Self::Section);
        }
        if here.scalar().is_none() {
            here.wrong("a word or a section", faults);
            return None;
        }
        W::decode(here, faults).map(Self::Word)
    }

    fn schema(shapes: &mut Shapes) -> Value {
        json!({"anyOf": [W::schema(shapes), S::schema(shapes)]})
    }
}

/// Fields whose names are not ours, at least one.
#[derive(Debug)]
pub(super) struct Entries<T>(pub(super) Vec<(At<String>, At<T>)>);

impl<T: Decode> Decode for Entries<T> {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let Some(fields) = here.fields(faults) else {
            here.wrong("a section", faults);
            return None;
        };
        if fields.is_empty() {
            // It reads as if it said something.
            faults.refuse_with(&here.place, "an empty section", "leave the field out");
            return None;
        }
        let entries: Vec<_> = fields
            .into_iter()
            .map(|(name, place, value)| {
                let name = At { place, value: name.to_owned() };
                At::decode(&value, faults).map(|value| (name, value))
            })
            .collect();
        entries.into_iter().collect::<Option<_>>().map(Self)
    }

    fn schema(shapes: &mut Shapes) -> Value {
        json!({"type": "object", "additionalProperties": T::schema(shapes), "minProperties": 1})
    }
}

impl<T: Decode> Decode for Rc<T> {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        T::decode(here, faults).map(Self::new)
    }

    fn schema(shapes: &mut Shapes) -> Value {
        T::schema(shapes)
    }
}
