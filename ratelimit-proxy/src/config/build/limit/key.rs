//! What a limit counts by.

use crate::config::decode::{At, Either, Field, Many};
use crate::config::fault::{Faults, Place, nearest, shown};
use crate::config::model::Match;
use crate::config::raw::{self, KeyPart as RawPart};
use crate::config::words::{KeyPart, Source};

/// Most parts of a key, and most values of which one part is the first.
const MOST_PARTS: usize = 16;

/// What a key is made of.
pub(in crate::config::build) fn key(
    parts: &Many<RawPart>,
    raw_match: &Field<raw::Match>,
    matches: &Match,
    faults: &mut Faults,
) -> Vec<KeyPart> {
    // What a pattern captures is not known where it was refused.
    let known = match raw_match {
        Field::Broken => None,
        Field::Given(raw) if raw.path.is_broken() => None,
        _ => Some(matches.path.iter().flat_map(|path| path.captures()).collect::<Vec<_>>()),
    };
    let check = |source: &Source, place: &Place, faults: &mut Faults| {
        if let (Source::Capture(name), Some(known)) = (source, &known)
            && !known.contains(&name.as_str())
        {
            let hint = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean path.{near}?"),
                None if known.is_empty() => format!("write match: {{path: \"/{{{name}}}/**\"}}, say"),
                None => format!("it captures {}", known.join(", ")),
            };
            faults.refuse_with(place, format!("the path of match captures no {}", shown(name)), hint);
        }
    };
    let mut built = Vec::new();
    if let Some(surplus) = parts.0.get(MOST_PARTS) {
        faults.refuse(&surplus.place, format!("a key has at most {MOST_PARTS} parts"));
    }
    for part in parts.0.iter().take(MOST_PARTS) {
        let part = match &part.value {
            Either::Word(source) => {
                check(source, &part.place, faults);
                KeyPart::One(source.clone())
            }
            Either::Section(first) => {
                let sources: &[At<Source>] = first.first.get().map_or(&[], |sources| &sources.0);
                if let Some(surplus) = sources.get(MOST_PARTS) {
                    faults.refuse(&surplus.place, format!("at most {MOST_PARTS} values to choose from"));
                }
                for source in sources {
                    check(source, &source.place, faults);
                }
                KeyPart::First(sources.iter().map(|source| source.value.clone()).collect())
            }
        };
        if built.contains(&part) {
            let place = parts.0.get(built.len()).map_or_else(Place::default, |part| part.place.clone());
            faults.refuse(&place, format!("{part} is part of the key already"));
        }
        built.push(part);
    }
    built
}
