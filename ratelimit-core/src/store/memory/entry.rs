//! One operation on one entry: by compare-and-swap where the word is all of the state, under the entry's lock
//! where a record belongs to it.

use super::segment::Found;
use super::slot::Word;
use crate::algorithm::{Concurrency, FixedWindow, Gcra, Moment, Op, Outcome, Program, Ring};

/// What an operation makes of a state.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// Leaves it.
    Keep,
    /// A new word.
    Word(u128),
    /// A new record.
    Ring(Ring),
}

/// What the operation comes to on a state nobody else changes now.
pub(super) fn step(program: &Program, found: &Found<'_>, word: Word, at: &Moment, op: Op) -> (Next, Outcome) {
    if let Program::SlidingWindow(window) = program {
        let (ring, outcome) = window.step(ring(found, word), at.now, op);
        return (ring.map_or(Next::Keep, Next::Ring), outcome);
    }
    let (next, outcome) = step_word(program, word, at, op);
    (next.map_or(Next::Keep, Next::Word), outcome)
}

/// The same where the word is all of the state; a sliding window, of which it is not, is refused.
pub(super) fn step_word(program: &Program, word: Word, at: &Moment, op: Op) -> (Option<u128>, Outcome) {
    match program {
        Program::TokenBucket(bucket) => bucket.step(word.state(), at.now, op),
        Program::FixedWindow(window) => window.step(word.state(), at.utc, op),
        Program::Concurrency(permits) => permits.step(word.state(), op),
        Program::SlidingWindow(_) => (None, Outcome::refused(0, None)),
    }
}

/// Writes what a step came to and unlocks; only for who holds the entry's lock.
pub(super) fn write(found: &Found<'_>, locked: Word, next: Next) {
    let word = match next {
        Next::Keep => locked,
        Next::Word(state) => locked.with_state(state),
        Next::Ring(ring) => {
            if let Some(record) = found.record() {
                record.store(&ring);
            }
            let empty = ring.cells.iter().all(|&count| count == 0);
            locked.with_state(if empty { 0 } else { ring.expires().get().into() })
        }
    };
    found.slot.store(word);
}

/// Does the operation on the entry; `None` when the slot holds it no longer and it has to be looked up again.
pub(super) fn attempt(program: &Program, found: &Found<'_>, at: &Moment, op: Op) -> Option<Outcome> {
    match program {
        Program::TokenBucket(bucket) => swap(bucket, found, at, op),
        Program::FixedWindow(window) => swap(window, found, at, op),
        Program::Concurrency(permits) => swap(permits, found, at, op),
        Program::SlidingWindow(_) => {
            let word = found.slot.lock(found.tag())?;
            let (next, outcome) = step(program, found, word, at, op);
            write(found, word, next);
            Some(outcome)
        }
    }
}

/// Algorithms whose state is one word.
pub(super) trait WordStep {
    fn step_word(&self, state: u128, at: &Moment, op: Op) -> (Option<u128>, Outcome);
}

impl WordStep for Gcra {
    #[inline(always)]
    fn step_word(&self, state: u128, at: &Moment, op: Op) -> (Option<u128>, Outcome) {
        self.step(state, at.now, op)
    }
}

impl WordStep for FixedWindow {
    fn step_word(&self, state: u128, at: &Moment, op: Op) -> (Option<u128>, Outcome) {
        self.step(state, at.utc, op)
    }
}

impl WordStep for Concurrency {
    fn step_word(&self, state: u128, _: &Moment, op: Op) -> (Option<u128>, Outcome) {
        self.step(state, op)
    }
}

#[inline(always)]
pub(super) fn swap(program: &impl WordStep, found: &Found<'_>, at: &Moment, op: Op) -> Option<Outcome> {
    let mut word = found.word;
    loop {
        if word.is_locked() {
            word = found.slot.unlocked();
        }
        if !word.is(found.tag()) {
            return None;
        }
        let (next, outcome) = program.step_word(word.state(), at, op);
        let Some(next) = next else { return Some(outcome) };
        match found.slot.replace(word, word.with_state(next)) {
            Ok(()) => return Some(outcome),
            Err(now) => word = now,
        }
    }
}

/// What the operation comes to for a key without entry, and whether it would need one.
pub(super) fn absent(program: &Program, at: &Moment, op: Op) -> (bool, Outcome) {
    match program {
        Program::TokenBucket(bucket) => needs(bucket.step(0, at.now, op)),
        Program::FixedWindow(window) => needs(window.step(0, at.utc, op)),
        Program::Concurrency(permits) => needs(permits.step(0, op)),
        Program::SlidingWindow(window) => needs(window.step(Ring::default(), at.now, op)),
    }
}

fn needs<T>((next, outcome): (Option<T>, Outcome)) -> (bool, Outcome) {
    (next.is_some(), outcome)
}

/// A word of state 0 is a new key's, whatever the record still holds of the former.
fn ring(found: &Found<'_>, word: Word) -> Ring {
    match found.record() {
        Some(record) if word.state() != 0 => record.load(),
        _ => Ring::default(),
    }
}
