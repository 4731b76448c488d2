//! Stacks as a flame graph: whatever called something lies below it, and is as wide as its share of the time.

use std::collections::BTreeMap;

use maud::{Markup, html};

/// Sizes in pixels.
const WIDTH: f64 = 1200.0;
const ROW: usize = 18;
const MARGIN: usize = 10;
const HEAD: usize = 44;
/// Width of a letter, about.
const LETTER: f64 = 6.6;
/// What is narrower is not drawn, nor what lies above it.
const NARROWEST: f64 = 0.6;

/// Stacks that were seen.
#[derive(Debug, Default)]
pub(super) struct Flame {
    all: Call,
}

/// A function, as called from somewhere.
#[derive(Debug, Default)]
struct Call {
    samples: usize,
    calls: BTreeMap<String, Self>,
}

impl Call {
    fn depth(&self, width: f64) -> usize {
        let deeper = self.calls.values().map(|call| call.depth(width)).max().unwrap_or(0);
        if self.width(width) < NARROWEST { 0 } else { deeper + 1 }
    }

    /// `each`: the width of a sample.
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    fn width(&self, each: f64) -> f64 {
        self.samples as f64 * each
    }
}

/// Where a call is drawn.
#[derive(Clone, Copy)]
struct Place {
    left: f64,
    /// Rows above the lowest.
    row: usize,
    /// The width of a sample, and how many there are.
    each: f64,
    all: usize,
    height: usize,
}

impl Flame {
    /// Adds a stack, the outermost call first.
    pub(super) fn add(&mut self, stack: impl Iterator<Item = String>, samples: usize) {
        self.all.samples += samples;
        let mut call = &mut self.all;
        for name in stack {
            call = call.calls.entry(name).or_default();
            call.samples += samples;
        }
    }

    /// The picture, with a line of text about it.
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    pub(super) fn svg(&self, about: &str) -> String {
        let all = self.all.samples;
        let each = (WIDTH - 2.0 * MARGIN as f64) / all.max(1) as f64;
        let height = HEAD + MARGIN + ROW * self.all.depth(each).max(1);
        let place = Place { left: MARGIN as f64, row: 0, each, all, height };
        let svg = html! {
            svg xmlns="http://www.w3.org/2000/svg" width=(WIDTH) height=(height)
                viewBox=(format!("0 0 {WIDTH} {height}")) font-family="ui-monospace, monospace" font-size="11" {
                rect width="100%" height="100%" fill="#ffffff" {}
                text x=(MARGIN) y="20" font-size="14" fill="#222222" { "ratelimit-proxy: where the processor's time goes" }
                text x=(MARGIN) y="36" fill="#666666" {
                    (all) " samples, " (about) ". Hover for names; the width is the share of the time."
                }
                (drawn("all", &self.all, place))
            }
        };
        svg.into_string()
    }
}

fn drawn(name: &str, call: &Call, place: Place) -> Markup {
    let width = call.width(place.each);
    let top = place.height.saturating_sub(MARGIN + ROW * (place.row + 1));
    let mut left = place.left;
    let children = call.calls.iter().map(|(name, call)| {
        let here = Place { left, row: place.row + 1, ..place };
        left += call.width(place.each);
        (name, call, here)
    });
    let children: Vec<_> = children.filter(|(_, call, _)| call.width(place.each) >= NARROWEST).collect();
    html! {
        g {
            title { (name) ": " (call.samples) " samples, " (share(call.samples, place.all)) }
            rect x=(format!("{:.1}", place.left)) y=(top) width=(format!("{:.1}", (width - 0.4).max(0.2)))
                height=(ROW - 1) rx="1.5" fill=(colour(name)) {}
            @if let Some(shown) = fitting(name, width) {
                text x=(format!("{:.1}", place.left + 3.0)) y=(top + ROW - 6) fill="#222222" { (shown) }
            }
        }
        @for (name, call, here) in children { (drawn(name, call, here)) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a picture")]
fn share(samples: usize, all: usize) -> String {
    format!("{:.1} %", samples as f64 * 100.0 / all.max(1) as f64)
}

/// As much of a name as there is room for; the end of a path says most.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a picture")]
fn fitting(name: &str, width: f64) -> Option<String> {
    let room = ((width - 6.0) / LETTER) as usize;
    let length = name.chars().count();
    match room {
        0..3 => None,
        _ if length <= room => Some(name.to_owned()),
        _ => Some(format!("…{}", name.chars().skip(length + 1 - room).collect::<String>())),
    }
}

/// Warm colours, the same for the same name.
fn colour(name: &str) -> String {
    let hash = name.bytes().fold(5381_u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte));
    let (hue, light) = (18 + hash % 34, 66 + (hash >> 8) % 12);
    format!("hsl({hue}, 85%, {light}%)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> std::vec::IntoIter<String> {
        names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn what_was_called_lies_above_its_caller_with_its_share() {
        let mut flame = Flame::default();
        flame.add(stack(&["worker", "serve", "decide<'_>"]), 3);
        flame.add(stack(&["worker", "serve", "forward"]), 1);
        let svg = flame.svg("for a test");
        for part in [
            "worker: 4 samples, 100.0 %",
            "decide&lt;'_&gt;: 3 samples, 75.0 %",
            "forward: 1 samples, 25.0 %",
        ] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(!svg.contains("decide<"));
        assert!(svg.starts_with("<svg ") && svg.contains("4 samples, for a test"));
    }

    #[test]
    fn nothing_seen_is_a_picture_too() {
        assert!(Flame::default().svg("none").contains("0 samples"));
    }

    #[test]
    fn names_are_cut_in_front_and_slivers_are_left_out() {
        assert_eq!(fitting("a::b::longer", 6.0 + LETTER * 8.0), Some("…:longer".to_owned()));
        assert_eq!(fitting("abc", 6.0 + LETTER * 2.0), None);
        let mut flame = Flame::default();
        flame.add(stack(&["wide"]), 100_000);
        flame.add(stack(&["narrow"]), 1);
        let svg = flame.svg("for a test");
        assert!(svg.contains("wide") && !svg.contains("narrow"));
    }
}
