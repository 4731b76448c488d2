//! One entry of a table: 16 bytes that change together.
//!
//! | bits | what |
//! |---|---|
//! | 127…72 | tag: the key's hash; 0 only in a slot that was never used or was emptied |
//! | 71 | lock: who set it may change the entry and its record, everyone else waits |
//! | 70…0 | state: what the algorithm keeps; 0 is fully recovered |
//!
//! Because tag and state change in one compare-and-swap, a slot reused for another key can never be charged
//! for the former, and an equal value means the same key in the same state.

use crate::sync::{AtomicU128, Ordering, spin_loop, yield_now};

const STATE_BITS: u32 = 71;
const STATE: u128 = (1 << STATE_BITS) - 1;
const LOCK: u128 = 1 << STATE_BITS;
const TAG_SHIFT: u32 = STATE_BITS + 1;
/// Bits of a key's hash that are kept.
pub(super) const TAG_BITS: u32 = 128 - TAG_SHIFT;

/// The 56 bits of a key's hash by which a table knows it; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag(u64);

impl Tag {
    /// The tag of a segment's overflow entry, which is never looked up.
    pub(super) const OVERFLOW: Self = Self(1);

    pub(super) const fn of(hash: u64) -> Self {
        let tag = hash & ((1 << TAG_BITS) - 1);
        Self(if tag == 0 { 1 } else { tag })
    }

    /// Its low bits, as many as the mask has.
    #[inline]
    pub(super) const fn masked(self, mask: u64) -> u64 {
        self.0 & mask
    }

    /// Some of its bits, for choosing places.
    #[inline]
    pub(super) const fn bits(self, from: u32, count: u32) -> u64 {
        (self.0 >> from) & ((1 << count) - 1)
    }
}

/// The value of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u128);

impl Word {
    pub(super) const EMPTY: Self = Self(0);

    pub(super) const fn new(tag: Tag, state: u128) -> Self {
        Self(((tag.0 as u128) << TAG_SHIFT) | (state & STATE))
    }

    #[inline]
    pub(super) const fn is(self, tag: Tag) -> bool {
        (self.0 >> TAG_SHIFT) == tag.0 as u128
    }

    pub(super) fn tag(self) -> Tag {
        Tag(u64::try_from(self.0 >> TAG_SHIFT).unwrap_or(0))
    }

    #[inline]
    pub(super) const fn state(self) -> u128 {
        self.0 & STATE
    }

    #[inline]
    pub(super) const fn is_locked(self) -> bool {
        self.0 & LOCK != 0
    }

    pub(super) const fn locked(self) -> Self {
        Self(self.0 | LOCK)
    }

    #[inline]
    pub(super) const fn with_state(self, state: u128) -> Self {
        Self((self.0 & !STATE) | (state & STATE))
    }
}

/// Where a word lives.
#[derive(Debug)]
pub(super) struct Slot(AtomicU128);

impl Slot {
    pub(super) fn new(word: Word) -> Self {
        Self(AtomicU128::new(word.0))
    }

    #[inline]
    pub(super) fn load(&self) -> Word {
        // Pairs with the releases below: who sees a word sees the record that was written before it.
        Word(self.0.load(Ordering::Acquire))
    }

    /// Puts `new` where `old` was; otherwise tells what is there.
    #[inline]
    pub(super) fn replace(&self, old: Word, new: Word) -> Result<(), Word> {
        match self.0.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(found) => Err(Word(found)),
        }
    }

    /// Only for who holds the lock of this slot, or owns a segment nobody else has seen.
    pub(super) fn store(&self, word: Word) {
        self.0.store(word.0, Ordering::Release);
    }

    /// What the slot holds once whoever has locked it is done.
    #[cold]
    pub(super) fn unlocked(&self) -> Word {
        let mut patience = Patience::default();
        loop {
            let word = self.load();
            if !word.is_locked() {
                return word;
            }
            patience.wait();
        }
    }

    /// Locks the slot if it holds `tag`, waiting for whoever has locked it; otherwise tells nothing.
    pub(super) fn lock(&self, tag: Tag) -> Option<Word> {
        let mut word = self.load();
        while word.is(tag) {
            if word.is_locked() {
                word = self.unlocked();
            } else {
                match self.replace(word, word.locked()) {
                    Ok(()) => return Some(word),
                    Err(found) => word = found,
                }
            }
        }
        None
    }
}

/// Waits for something that takes nanoseconds unless its thread was interrupted.
#[derive(Default)]
pub(super) struct Patience(u32);

impl Patience {
    pub(super) fn wait(&mut self) {
        if self.0 < 64 {
            self.0 += 1;
            spin_loop();
        } else {
            yield_now();
        }
    }
}
