//! [`Top`]: which keys of a limit are denied most, and which come near to it, out of a fixed number of counters
//! whatever the number of keys: Space-Saving (Metwally, Agrawal, El Abbadi, 2005). A key that had more than a
//! `PLACES`th of all events is sure to be there; its count is at most too high by what it took over.
//!
//! Each thread keeps its own, behind a lock that nobody else wants but when somebody asks. Keys that are allowed and
//! far from their limit cost nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ratelimit_core::{Key, KeyBuf};

/// Keys that are followed for each limit and kind of event.
pub(crate) const PLACES: usize = 128;
/// Limits that are followed; those beyond are not.
const LIMITS: usize = 1024;

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It was denied.
    Denied,
    /// It was admitted, and has little left.
    Near,
}

/// A key and how often it was seen, at most; `over`: by how much that may be too high.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) key: KeyBuf,
    pub(crate) count: u64,
    pub(crate) over: u64,
}

/// The counters of one limit for one kind of event.
#[derive(Debug, Default)]
struct Sketch {
    /// What is compared first, side by side.
    marks: Vec<u64>,
    places: Vec<Place>,
}

impl Sketch {
    fn count(&mut self, key: Key<'_>) {
        let mark = mark(key);
        let mut known = self.marks.iter().zip(&mut self.places).filter(|(known, _)| **known == mark);
        if let Some((_, place)) = known.find(|(_, place)| place.key.key() == key) {
            place.count += 1;
            return;
        }
        let mut new = Place { key: KeyBuf::new(), count: 1, over: 0 };
        ratelimit_core::AsKey::encode(&key, &mut new.key);
        if self.places.len() < PLACES {
            self.marks.push(mark);
            self.places.push(new);
            return;
        }
        // Whoever was seen least makes room, and the new one is given what that had.
        let least = self.places.iter_mut().zip(&mut self.marks).min_by_key(|(place, _)| place.count);
        if let Some((place, known)) = least {
            (new.count, new.over) = (place.count + 1, place.count);
            (*place, *known) = (new, mark);
        }
    }
}

/// A few bits of a key; what they can't tell apart is compared in full.
fn mark(key: Key<'_>) -> u64 {
    let (lead, rest) = key.parts();
    // FNV-1a over the last bytes, which differ most, and the length.
    let start = rest.len().saturating_sub(24);
    let seed = 0xcbf2_9ce4_8422_2325 ^ u64::try_from(rest.len()).unwrap_or(u64::MAX);
    let bytes = lead.iter().chain(rest.get(start..).unwrap_or_default());
    bytes.fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// What one thread saw, by the number of the limit.
#[derive(Debug, Default)]
pub(crate) struct Top(Mutex<Vec<[Sketch; 2]>>);

impl Top {
    /// A key of the limit of that number was seen.
    pub(crate) fn saw(&self, limit: usize, event: Event, key: Key<'_>) {
        if limit >= LIMITS {
            return;
        }
        let mut limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if limits.len() <= limit {
            limits.resize_with(limit + 1, Default::default);
        }
        if let Some([denied, near]) = limits.get_mut(limit) {
            let sketch = if event == Event::Denied { denied } else { near };
            sketch.count(key);
        }
    }

    /// Adds what was seen to a sum over threads.
    pub(crate) fn add_to(&self, limit: usize, event: Event, sum: &mut HashMap<KeyBuf, Place>) {
        let limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some([denied, near]) = limits.get(limit) else { return };
        let sketch = if event == Event::Denied { denied } else { near };
        for place in &sketch.places {
            sum.entry(place.key.clone())
                .and_modify(|known| {
                    known.count += place.count;
                    known.over += place.over;
                })
                .or_insert_with(|| place.clone());
        }
    }
}

/// The first so many, those that were seen most often first.
pub(crate) fn most(sum: HashMap<KeyBuf, Place>, number: usize) -> Vec<Place> {
    let mut places: Vec<_> = sum.into_values().collect();
    places.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.key.key().cmp(&b.key.key())));
    places.truncate(number);
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratelimit_core::AsKey as _;

    fn key(text: &str) -> KeyBuf {
        let mut key = KeyBuf::new();
        text.encode(&mut key);
        key
    }

    fn told(tops: &[&Top], limit: usize, event: Event, number: usize) -> Vec<(KeyBuf, u64)> {
        let mut sum = HashMap::new();
        tops.iter().for_each(|top| top.add_to(limit, event, &mut sum));
        most(sum, number).into_iter().map(|place| (place.key, place.count)).collect()
    }

    #[test]
    fn few_keys_are_counted_exactly_and_apart() {
        let (one, other) = (Top::default(), Top::default());
        for (top, text, times) in [(&one, "a", 3), (&one, "b", 1), (&other, "b", 5), (&other, "c", 2)] {
            (0..times).for_each(|_| top.saw(1, Event::Denied, key(text).key()));
        }
        one.saw(1, Event::Near, key("n").key());
        one.saw(0, Event::Denied, key("z").key());
        let denied = told(&[&one, &other], 1, Event::Denied, 2);
        assert_eq!(denied, [(key("b"), 6), (key("a"), 3)]);
        assert_eq!(told(&[&one, &other], 1, Event::Near, 9), [(key("n"), 1)]);
        assert_eq!(told(&[&one, &other], 7, Event::Near, 9), []);
    }

    /// However many others there are, who is denied most is there, and its count is never too low.
    #[test]
    fn a_flood_of_keys_does_not_hide_the_worst() {
        let top = Top::default();
        let mut random = fastrand::Rng::with_seed(7);
        let mut worst = 0;
        for number in 0..100_000 {
            if random.u8(..20) == 0 {
                worst += 1;
                top.saw(0, Event::Denied, key("worst").key());
            }
            top.saw(0, Event::Denied, key(&format!("key-{number}")).key());
        }
        let denied = told(&[&top], 0, Event::Denied, 3);
        assert_eq!(denied[0].0, key("worst"));
        assert!(denied[0].1 >= worst);
        assert_eq!(top.0.lock().unwrap()[0][0].places.len(), PLACES, "no more than these, whatever comes");
        top.saw(LIMITS, Event::Denied, key("x").key());
        assert_eq!(top.0.lock().unwrap().len(), 1);
    }
}
