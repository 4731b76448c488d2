//! A segment: some pairs of cache lines that hold entries, each entry in one of two pairs.
//!
//! Where an entry may lie follows from its tag alone: pair `p`, or pair `q = g − p` (modulo the number of
//! pairs), both `p` and `g` being taken from the tag, so that the other pair can be found from either.
//! An entry goes to `p` until that is nearly full, then to the emptier of the two; when both are full, some
//! entry in them is moved to its own other pair. A segment that may grow does so when that too is full, with
//! some 90 % of its slots taken; one that may not lets entries of that other pair move first, and takes 95 %
//! of its slots or more before the first key finds no place. (The same family as Dash, Lu et al., VLDB 2020: two buckets, displacement,
//! segments that split.)
//!
//! # Protocol
//! Finding an entry takes no lock. Inserting, moving and growing happen under the segment's mutex; as all
//! entries of one tag belong to one segment, a key never has two entries. A slot is reused only if its entry
//! has recovered, by compare-and-swap from the word that was judged: if its owner charged it meanwhile, the
//! swap fails. An entry that moves is locked first, so a reader sees it in its old place, sees the lock and
//! starts again, or sees it in its new place.

use super::kind::Kind;
use super::record::Record;
use super::slot::{Slot, Tag, Word};
use crate::algorithm::Moment;
use crate::sync::{Mutex, MutexGuard};

/// Slots in a pair of cache lines. (Two keep the model checker's world small.)
pub(super) const SLOTS: usize = if cfg!(ratelimit_loom) { 2 } else { 8 };

/// Two cache lines: processors fetch them together.
#[derive(Debug)]
#[repr(align(128))]
struct Pair([Slot; SLOTS]);

#[derive(Debug)]
pub(super) struct Segment {
    pairs: Box<[Pair]>,
    /// As many as there are slots and one for the overflow entry; none where words hold all of the state.
    records: Box<[Record]>,
    /// Where keys are counted together that found no slot and could get none.
    overflow: Slot,
    /// Held while anything is inserted, moved or grown.
    shape: Mutex<Shape>,
}

/// What a segment's mutex guards.
#[derive(Debug)]
pub(super) struct Shape {
    /// How many low bits of the tag its keys share.
    pub(super) depth: u32,
    /// For how many insertions no long way is searched, since none was found lately.
    pub(super) short_ways: u32,
}

/// An entry as it was seen.
#[derive(Debug)]
pub(super) struct Found<'t> {
    segment: &'t Segment,
    position: usize,
    pub(super) slot: &'t Slot,
    pub(super) word: Word,
}

impl Found<'_> {
    pub(super) fn record(&self) -> Option<&Record> {
        self.segment.records.get(self.position)
    }

    pub(super) fn is_overflow(&self) -> bool {
        self.position == self.segment.slots()
    }

    /// The tag that the slot must still hold for this to be the same entry.
    pub(super) fn tag(&self) -> Tag {
        self.word.tag()
    }
}

impl Segment {
    pub(super) fn new(pairs: usize, depth: u32, kind: Kind) -> Self {
        let pair = |_| Pair(std::array::from_fn(|_| Slot::new(Word::EMPTY)));
        let records = if kind.has_record() { pairs * SLOTS + 1 } else { 0 };
        Self {
            pairs: (0..pairs).map(pair).collect(),
            records: (0..records).map(|_| Record::empty()).collect(),
            overflow: Slot::new(Word::new(Tag::OVERFLOW, 0)),
            shape: Mutex::new(Shape { depth, short_ways: 0 }),
        }
    }

    pub(super) fn pairs(&self) -> usize {
        self.pairs.len()
    }

    pub(super) fn slots(&self) -> usize {
        self.pairs.len() * SLOTS
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Shape> {
        self.shape.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The two pairs in which an entry may lie.
    #[inline]
    fn places(&self, tag: Tag) -> (usize, usize) {
        let first = self.scaled(tag.bits(32, 24));
        (first, self.other(tag, first))
    }

    /// The other of an entry's two pairs.
    #[inline]
    fn other(&self, tag: Tag, pair: usize) -> usize {
        let sum = self.scaled(tag.bits(16, 24));
        if sum >= pair { sum - pair } else { sum + self.pairs.len() - pair }
    }

    /// A number of 24 bits, scaled down to a pair's.
    #[inline]
    fn scaled(&self, bits: u64) -> usize {
        usize::try_from((bits * self.pairs.len() as u64) >> 24).unwrap_or(0)
    }

    /// The slots of a pair with their positions, the one that this tag prefers first.
    #[inline]
    fn pair(&self, pair: usize, tag: Tag) -> impl Iterator<Item = (usize, &Slot)> {
        let start = preferred(tag);
        self.pairs.get(pair).into_iter().flat_map(move |Pair(slots)| {
            (0..SLOTS).filter_map(move |step| {
                let at = (start + step) % SLOTS;
                slots.get(at).map(|slot| (pair * SLOTS + at, slot))
            })
        })
    }

    #[inline(always)]
    pub(super) fn find(&self, tag: Tag) -> Option<Found<'_>> {
        let (first, second) = self.places(tag);
        // Written out, unlike `Segment::pair`: every decision comes through here.
        let mut pair = first;
        loop {
            let Pair(slots) = self.pairs.get(pair)?;
            for step in 0..SLOTS {
                let at = (preferred(tag) + step) % SLOTS;
                let slot = slots.get(at)?;
                let word = slot.load();
                if word.is(tag) {
                    return Some(Found { segment: self, position: pair * SLOTS + at, slot, word });
                }
            }
            if pair == second {
                return None;
            }
            pair = second;
        }
    }

    pub(super) fn overflow(&self) -> Found<'_> {
        Found { segment: self, position: self.slots(), slot: &self.overflow, word: self.overflow.load() }
    }

    /// Entries that have not recovered.
    pub(super) fn live(&self, kind: Kind, at: &Moment) -> usize {
        let slots = self.pairs.iter().flat_map(|Pair(slots)| slots);
        slots.filter(|slot| slot.load() != Word::EMPTY && !kind.is_recovered(slot.load(), at)).count()
    }

    /// Makes an entry for a key that has none. It starts empty, or where the keys of this segment that share
    /// the overflow entry stand, if those have not recovered: this key may be one of them.
    ///
    /// Up to `moves` other entries may move before one that makes room: 0 fills about 90 % of a segment, 2 all
    /// but 5 % even of an unlucky one, at the price of longer ways.
    ///
    /// Only under this segment's lock, after a look that the key is not there. `None`: no room.
    pub(super) fn insert(&self, tag: Tag, moves: u32, kind: Kind, at: &Moment) -> Option<Found<'_>> {
        let (first, second) = self.places(tag);
        loop {
            let (room_first, slot_first) = self.room(first, tag, kind, at);
            let (room_second, slot_second) =
                if room_first > 1 || first == second { (0, None) } else { self.room(second, tag, kind, at) };
            let free = if room_first >= room_second { slot_first } else { slot_second };
            let Some(free) = free else {
                let freed = (0..=moves).find_map(|moves| {
                    self.displace(first, moves, kind, at).or_else(|| self.displace(second, moves, kind, at))
                })?;
                return Some(self.begin(&freed, tag, kind, at));
            };
            if free.slot.replace(free.word, Word::new(tag, 0).locked()).is_ok() {
                return Some(self.begin(&free, tag, kind, at));
            }
            // Its owner came back between the look and the swap.
        }
    }

    /// How many slots of a pair could be taken, and the one to take first: one that is empty rather than one
    /// whose key has recovered and may come again.
    fn room(&self, pair: usize, tag: Tag, kind: Kind, at: &Moment) -> (usize, Option<Found<'_>>) {
        let (mut room, mut best) = (0, None);
        for (position, slot) in self.pair(pair, tag) {
            let word = slot.load();
            if !kind.is_reusable(word, at) {
                continue;
            }
            room += 1;
            let found = Found { segment: self, position, slot, word };
            if word == Word::EMPTY {
                // Empty slots count twice, so that the pair that has them is chosen.
                room += SLOTS;
                best = best.filter(|best: &Found<'_>| best.word == Word::EMPTY).or(Some(found));
            } else {
                best = best.or(Some(found));
            }
        }
        (room, best)
    }

    /// Frees a slot of a full pair by moving an entry of it to that entry's other pair, for which up to `moves`
    /// others may have to move before. The slot is still locked, by nobody's tag or by that of the entry that
    /// was moved.
    fn displace(&self, pair: usize, moves: u32, kind: Kind, at: &Moment) -> Option<Found<'_>> {
        let Pair(slots) = self.pairs.get(pair)?;
        for (at_slot, slot) in slots.iter().enumerate() {
            let word = slot.load();
            let elsewhere = self.other(word.tag(), pair);
            if word == Word::EMPTY || word.is_locked() || elsewhere == pair {
                continue;
            }
            let place = match moves.checked_sub(1) {
                Some(moves) => self.displace(elsewhere, moves, kind, at),
                None => self.reserve(elsewhere, word.tag(), kind, at),
            };
            let Some(place) = place else { continue };
            if slot.replace(word, word.locked()).is_err() {
                // Its owner charges it. What lay in the place has moved on, or had recovered.
                place.slot.store(Word::EMPTY);
                continue;
            }
            let from = Found { segment: self, position: pair * SLOTS + at_slot, slot, word };
            copy_record(&from, &place);
            place.slot.store(word);
            return Some(from);
        }
        None
    }

    /// Locks a slot of a pair that could be taken.
    fn reserve(&self, pair: usize, tag: Tag, kind: Kind, at: &Moment) -> Option<Found<'_>> {
        let (_, free) = self.room(pair, tag, kind, at);
        free.filter(|free| free.slot.replace(free.word, Word::EMPTY.locked()).is_ok())
    }

    /// Fills a locked slot with a new key's first state and unlocks it.
    fn begin<'s>(&'s self, place: &Found<'s>, tag: Tag, kind: Kind, at: &Moment) -> Found<'s> {
        let mut word = Word::new(tag, 0);
        if !kind.is_recovered(self.overflow.load(), at)
            && let Some(shared) = self.overflow.lock(Tag::OVERFLOW)
        {
            copy_record(&Found { word: shared, ..self.overflow() }, place);
            word = word.with_state(shared.state());
            self.overflow.store(shared);
        }
        place.slot.store(word);
        Found { segment: self, position: place.position, slot: place.slot, word }
    }

    /// Fills `new`, which nobody else has seen, with the entries of this segment for which `moves` holds, in
    /// the same positions if it is as large. They stay locked here until [`Segment::release`] is told where
    /// they belong. `None`, with everything as it was: there was no room for one of them.
    ///
    /// Only under this segment's lock.
    pub(super) fn copy_to(
        &self,
        new: &Self,
        kind: Kind,
        at: &Moment,
        moves: impl Fn(Tag) -> bool,
    ) -> Option<Moved<'_>> {
        let mut moved = Moved { slots: Vec::with_capacity(self.slots()), overflow: None };
        for (number, Pair(slots)) in self.pairs.iter().enumerate() {
            for (at_slot, slot) in slots.iter().enumerate() {
                let Some(word) = self.take_for_move(slot, kind, at, &moves) else { continue };
                moved.slots.push((slot, word));
                let from = Found { segment: self, position: number * SLOTS + at_slot, slot, word };
                if !new.adopt(&from, self.pairs.len() == new.pairs.len(), kind, at) {
                    moved.undo();
                    return None;
                }
            }
        }
        if let Some(shared) = self.overflow.lock(Tag::OVERFLOW) {
            moved.overflow = Some((&self.overflow, shared));
            copy_record(&Found { word: shared, ..self.overflow() }, &new.overflow());
            new.overflow.store(shared);
        }
        Some(moved)
    }

    /// Locks an entry that has to move; empties a slot whose entry has recovered.
    fn take_for_move(
        &self,
        slot: &Slot,
        kind: Kind,
        at: &Moment,
        moves: impl Fn(Tag) -> bool,
    ) -> Option<Word> {
        loop {
            let word = slot.load();
            if word == Word::EMPTY || !moves(word.tag()) {
                return None;
            }
            if !kind.is_reusable(word, at) {
                // No new key can come to this slot while the segment's mutex is held.
                return slot.lock(word.tag());
            }
            if slot.replace(word, Word::EMPTY).is_ok() {
                return None;
            }
        }
    }

    /// Takes an entry over into a segment that nobody else has seen.
    fn adopt(&self, from: &Found<'_>, same_position: bool, kind: Kind, at: &Moment) -> bool {
        let place = if same_position {
            let slot = self
                .pairs
                .get(from.position / SLOTS)
                .and_then(|Pair(slots)| slots.get(from.position % SLOTS));
            slot.map(|slot| Found { segment: self, position: from.position, slot, word: Word::EMPTY })
        } else {
            let (first, second) = self.places(from.tag());
            let (room_first, slot_first) = self.room(first, from.tag(), kind, at);
            let (room_second, slot_second) = self.room(second, from.tag(), kind, at);
            if room_first >= room_second { slot_first } else { slot_second }
        };
        let Some(place) = place else { return false };
        copy_record(from, &place);
        place.slot.store(from.word);
        true
    }
}

/// Entries that were copied to another segment and are locked in the old one.
pub(super) struct Moved<'s> {
    slots: Vec<(&'s Slot, Word)>,
    overflow: Option<(&'s Slot, Word)>,
}

impl Moved<'_> {
    /// The new segment is in the directory: the old slots become empty, and who waits there looks again.
    /// `all`: nothing stays behind, so the overflow entry has moved too.
    pub(super) fn release(self, all: bool) {
        for (slot, _) in &self.slots {
            slot.store(Word::EMPTY);
        }
        if let Some((slot, word)) = self.overflow {
            slot.store(if all { Word::EMPTY } else { word });
        }
    }

    pub(super) fn undo(self) {
        for (slot, word) in self.slots.into_iter().chain(self.overflow) {
            slot.store(word);
        }
    }
}

/// The slot of a pair that a tag is looked for first.
#[inline]
fn preferred(tag: Tag) -> usize {
    usize::try_from(tag.bits(24, 3)).unwrap_or(0)
}

/// Both slots are locked, or not yet seen by anybody else.
fn copy_record(from: &Found<'_>, to: &Found<'_>) {
    if let (Some(from), Some(to)) = (from.record(), to.record()) {
        to.store(&from.load());
    }
}
