//! The table of one limit: a directory of segments that grows without stopping anybody.
//!
//! The low bits of a tag choose an entry of the directory, which names a segment. A limit starts with eight
//! small segments, made when first needed; a full one is replaced by one sixteen times as large, which from
//! then on splits in two. Their final sizes differ, so that they split at different times and the memory a key
//! takes is much the same at every number of keys: about 24 bytes. Growing concerns one segment of at most
//! 1920 entries at a time, whose keys wait a few microseconds.
//!
//! How far each may grow follows from the capacity alone, not from what others took: whoever comes first, no
//! segment is left without the room for its share of the keys.
//!
//! Segments are freed with the table only. That is what lets readers follow the directory without a lock.

use std::sync::OnceLock;

use super::Overflow;
use super::kind::Kind;
use super::segment::{Found, SLOTS, Segment, Shape};
use super::slot::Tag;
use crate::algorithm::Moment;
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering};

/// log₂ of the longest directory: for some 1.5 · 10⁹ keys.
const MOST_BITS: u32 = 20;
/// log₂ of the most segments a table can start with.
const ROOT_BITS: u32 = 3;
/// How many other entries may move for a new one where nothing may grow.
pub(super) const MOVES: u32 = 2;

/// How a table is laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// log₂ of the number of segments a table starts with.
    pub(super) root_bits: u32,
    /// Pairs in the smallest segment; those of the n-th root have n more.
    pub(super) first_pairs: usize,
    /// What becomes of each root as keys come.
    pub(super) grown: [Grown; 1 << ROOT_BITS],
}

/// How far the segments of one root grow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grown {
    /// Pairs of the one that replaces the root, if that is more.
    pub(super) pairs: usize,
    /// How many low bits of a tag the keys of a segment share at last: how often it may split.
    pub(super) depth: u32,
}

impl Geometry {
    /// Room for any `keys` keys at once. Their hashes don't fall evenly, so each segment gets room for seven
    /// standard deviations more than its share: fewer than one table in a million that hold just so many keys
    /// has a segment that gets more.
    pub(super) fn for_keys(keys: usize) -> Self {
        const FIRST_PAIRS: usize = 8;
        let need = |depth: u32| {
            let share = keys.div_ceil(1 << depth);
            share.saturating_add(7 * share.isqrt() + 7).saturating_mul(10) / 9
        };
        let suffices = |pairs: usize, depth: u32| need(depth) <= pairs * SLOTS;
        let grown = std::array::from_fn(|root| {
            if suffices(FIRST_PAIRS, ROOT_BITS) {
                return Grown { pairs: FIRST_PAIRS, depth: ROOT_BITS };
            }
            if suffices(128, ROOT_BITS) {
                let pairs = need(ROOT_BITS).div_ceil(SLOTS).max(4 * FIRST_PAIRS);
                return Grown { pairs, depth: ROOT_BITS };
            }
            // Different sizes split at different times, so that memory grows evenly.
            let pairs = 128 + 16 * root;
            let depth = (ROOT_BITS..MOST_BITS).find(|&depth| suffices(pairs, depth)).unwrap_or(MOST_BITS);
            Grown { pairs, depth }
        });
        Self { root_bits: ROOT_BITS, first_pairs: FIRST_PAIRS, grown }
    }

    /// log₂ of the directory's length.
    fn directory_bits(&self) -> u32 {
        self.grown.iter().map(|grown| grown.depth).fold(self.root_bits, u32::max)
    }

    /// Slots that all segments together can come to have.
    #[cfg(all(test, not(ratelimit_loom)))]
    pub(super) fn most_slots(&self) -> usize {
        let of_root = |(root, grown): (usize, &Grown)| {
            self.first_pairs + root + (grown.pairs << (grown.depth - self.root_bits))
        };
        self.grown.iter().enumerate().map(of_root).sum::<usize>() * SLOTS
    }

    fn grown(&self, tag: Tag) -> Grown {
        let root = usize::try_from(tag.bits(0, self.root_bits)).unwrap_or(0);
        self.grown.get(root).copied().unwrap_or(Grown { pairs: 0, depth: 0 })
    }
}

#[derive(Debug)]
pub(super) struct Table {
    kind: Kind,
    geometry: Geometry,
    /// As many of the directory's bits as the deepest segment needs by now, so that a table of few keys reads
    /// few places of it. Who reads it late finds a segment that a key has left, and asks again under its lock.
    mask: AtomicU64,
    at_capacity: Overflow,
    /// The [`Place`] of each segment.
    directory: Box<[AtomicU32]>,
    segments: Arena,
    growth: Mutex<Growth>,
    overflowed: AtomicU64,
}

#[derive(Debug, Default)]
struct Growth {
    segments: u32,
    slots: usize,
}

/// Segments by number, in chunks of 1, 2, 4, … so that none ever moves.
#[derive(Debug)]
struct Arena([OnceLock<Box<[OnceLock<Segment>]>>; 24]);

/// What an insertion came to.
pub(super) enum Inserted<'t> {
    /// The key has an entry now, made at that moment.
    New(Found<'t>, Moment),
    /// Something changed; look again.
    Again,
    /// The table is at its capacity; the key shares the overflow entry, or is refused.
    Full(Option<Found<'t>>),
}

impl Table {
    pub(super) fn new(kind: Kind, geometry: Geometry, at_capacity: Overflow) -> Self {
        Self {
            kind,
            geometry,
            mask: AtomicU64::new((1 << geometry.root_bits) - 1),
            at_capacity,
            directory: (0..1_usize << geometry.directory_bits()).map(|_| AtomicU32::new(0)).collect(),
            segments: Arena(std::array::from_fn(|_| OnceLock::new())),
            growth: Mutex::new(Growth::default()),
            overflowed: AtomicU64::new(0),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Decisions that were made on a shared overflow entry, or refused for want of a slot.
    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Slots of all segments in use, and bytes they take.
    pub(super) fn slots(&self) -> usize {
        self.growth().slots
    }

    /// Entries that have not recovered. Walks the whole table: for gauges, not for requests.
    pub(super) fn live(&self, at: &Moment) -> usize {
        let segments = self.growth().segments;
        (1..=segments)
            .filter_map(|number| self.segments.get(Place::of(number)))
            .map(|segment| segment.live(self.kind, at))
            .sum()
    }

    #[inline(always)]
    fn segment(&self, tag: Tag) -> (Place, Option<&Segment>) {
        let index = usize::try_from(tag.masked(self.mask.load(Ordering::Relaxed))).unwrap_or(0);
        // Pairs with the release in `publish`.
        let place = Place(self.directory.get(index).map_or(0, |entry| entry.load(Ordering::Acquire)));
        (place, self.segments.get(place))
    }

    #[inline(always)]
    pub(super) fn find(&self, tag: Tag) -> Option<Found<'_>> {
        self.segment(tag).1?.find(tag)
    }

    /// The entry that keys without one share, if there is any reason to look at it.
    pub(super) fn shared(&self, tag: Tag, at: &Moment) -> Option<Found<'_>> {
        let overflow = self.segment(tag).1?.overflow();
        (!self.kind.is_recovered(overflow.word, at)).then_some(overflow)
    }

    /// The overflow entry to which a receipt refers.
    pub(super) fn overflow(&self, tag: Tag) -> Option<Found<'_>> {
        Some(self.segment(tag).1?.overflow())
    }

    /// Makes an entry for a key that was not found.
    ///
    /// The clock is read again under the lock: the key's former slot may have been reused by a thread whose
    /// clock was ahead of the caller's, and nothing may be decided at a time before that.
    #[cold]
    pub(super) fn insert(&self, tag: Tag, clock: impl FnOnce() -> Moment) -> Inserted<'_> {
        let (place, segment) = self.segment(tag);
        let Some(segment) = segment else {
            self.plant(tag);
            return Inserted::Again;
        };
        let mut shape = segment.lock();
        if self.segment(tag).0 != place || segment.find(tag).is_some() {
            return Inserted::Again;
        }
        let at = clock();
        let permits_shared =
            self.kind == Kind::Permits && !self.kind.is_recovered(segment.overflow().word, &at);
        // A permit taken from the overflow entry returns to it, so no entry can begin with a copy of it.
        if !permits_shared {
            if let Some(found) = segment.insert(tag, 0, self.kind, &at) {
                return Inserted::New(found, at);
            }
            if self.grow(segment, &mut shape, tag, &at) {
                return Inserted::Again;
            }
            if let Some(found) = self.squeeze(segment, &mut shape, tag, &at) {
                return Inserted::New(found, at);
            }
        }
        self.overflowed.fetch_add(1, Ordering::Relaxed);
        Inserted::Full((self.at_capacity == Overflow::Share).then(|| segment.overflow()))
    }

    /// Searches longer ways to make room, where nothing may grow. A flood of new keys would make that its usual
    /// work, so that one search without success stands for the next ones.
    fn squeeze<'s>(
        &self,
        segment: &'s Segment,
        shape: &mut Shape,
        tag: Tag,
        at: &Moment,
    ) -> Option<Found<'s>> {
        const NOT_AGAIN_FOR: u32 = 64;
        if let Some(left) = shape.short_ways.checked_sub(1) {
            shape.short_ways = left;
            return None;
        }
        let found = segment.insert(tag, MOVES, self.kind, at);
        if found.is_none() {
            shape.short_ways = NOT_AGAIN_FOR;
        }
        found
    }

    /// Makes the root segment that a tag belongs to.
    fn plant(&self, tag: Tag) {
        let mut growth = self.growth();
        if self.segment(tag).1.is_some() {
            return;
        }
        let root = tag.bits(0, self.geometry.root_bits);
        let pairs = self.geometry.first_pairs + usize::try_from(root).unwrap_or(0);
        let segment = Segment::new(pairs, self.geometry.root_bits, self.kind);
        // A root is made even beyond the capacity: without it its keys would have no overflow entry.
        if let Some(place) = self.segments.add(&mut growth, segment) {
            self.publish(root, self.geometry.root_bits, place);
        }
    }

    /// Replaces a full segment by a larger one, or splits it. False at the capacity.
    fn grow(&self, old: &Segment, shape: &mut Shape, tag: Tag, at: &Moment) -> bool {
        let depth = shape.depth;
        let most = self.geometry.grown(tag);
        let enlarge = old.pairs() < most.pairs;
        if !enlarge && depth >= most.depth {
            return false;
        }
        let (pairs, new_depth) = if enlarge { (most.pairs, depth) } else { (old.pairs(), depth + 1) };
        let new = Segment::new(pairs, new_depth, self.kind);
        let upper = |tag: Tag| enlarge || tag.bits(depth, 1) == 1;
        let Some(moved) = old.copy_to(&new, self.kind, at, upper) else { return false };
        let Some(place) = self.segments.add(&mut self.growth(), new) else {
            moved.undo();
            return false;
        };
        let low = tag.bits(0, depth);
        let prefix = if enlarge { low } else { low | 1 << depth };
        self.publish(prefix, new_depth, place);
        moved.release(enlarge);
        shape.depth = new_depth;
        true
    }

    /// Whether a key has no entry. A look without the lock can miss an entry that is moving; what follows from
    /// its absence may need to be certain, as that nothing is to be given back.
    pub(super) fn is_absent(&self, tag: Tag) -> bool {
        let (place, Some(segment)) = self.segment(tag) else { return true };
        let _shape = segment.lock();
        self.segment(tag).0 == place && segment.find(tag).is_none()
    }

    /// Enters a segment for all tags that end in these bits.
    fn publish(&self, low: u64, depth: u32, place: Place) {
        self.mask.fetch_max((1 << depth) - 1, Ordering::Release);
        let first = usize::try_from(low).unwrap_or(usize::MAX);
        for entry in self.directory.iter().skip(first).step_by(1 << depth) {
            // Pairs with the acquire in `segment`.
            entry.store(place.0, Ordering::Release);
        }
    }

    fn growth(&self) -> crate::sync::MutexGuard<'_, Growth> {
        self.growth.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Names a segment: its chunk, counted from 1, above 24 bits for its place there; 0: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(u32);

impl Place {
    const OFFSET_BITS: u32 = 24;

    /// Of the n-th segment, from 1: chunks hold 1, 2, 4, … segments.
    fn of(number: u32) -> Self {
        let chunk = number.checked_ilog2().unwrap_or(0);
        Self((chunk + 1) << Self::OFFSET_BITS | (number - (1 << chunk)))
    }

    #[inline(always)]
    fn chunk_and_offset(self) -> Option<(usize, usize)> {
        let chunk = (self.0 >> Self::OFFSET_BITS).checked_sub(1)?;
        let offset = self.0 & ((1 << Self::OFFSET_BITS) - 1);
        Some((usize::try_from(chunk).ok()?, usize::try_from(offset).ok()?))
    }
}

impl Arena {
    #[inline(always)]
    fn get(&self, place: Place) -> Option<&Segment> {
        let (chunk, offset) = place.chunk_and_offset()?;
        self.0.get(chunk)?.get()?.get(offset)?.get()
    }

    /// Numbers are given out under the growth lock.
    fn add(&self, growth: &mut Growth, segment: Segment) -> Option<Place> {
        let number = growth.segments.checked_add(1)?;
        let place = Place::of(number);
        let (chunk, offset) = place.chunk_and_offset()?;
        let cells = self.0.get(chunk)?.get_or_init(|| (0..1_u32 << chunk).map(|_| OnceLock::new()).collect());
        let slots = segment.slots();
        cells.get(offset)?.set(segment).ok()?;
        growth.segments = number;
        growth.slots += slots;
        Some(place)
    }
}
