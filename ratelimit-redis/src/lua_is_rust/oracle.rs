//! The core's steps as the oracle of the script.

use ratelimit_core::algorithm::{Concurrency, FixedWindow, Gcra, Op, Outcome, Program, Ring, SlidingWindow};
use ratelimit_core::{Limit, Nanos};

use super::ORIGIN;
use crate::shape::{Kind, Shape};

/// A key in the oracle: the state and what steps it.
pub(super) enum Oracle {
    Bucket(Gcra, u128),
    Sliding(SlidingWindow, Ring),
    Fixed(FixedWindow, u128),
    Permits(Concurrency, u128),
}

impl Oracle {
    pub(super) fn new(limit: &Limit) -> Self {
        let spec = limit.spec();
        match (limit.program(), Shape::of(limit).kind) {
            // The store's own T, which is a whole number of nanoseconds in these tests.
            (Program::TokenBucket(_), Kind::Bucket { unit }) => {
                let unit = Nanos::new((unit * 1000.0) as u64);
                Self::Bucket(Gcra::new(1, unit, limit.capacity(), spec.debt).unwrap(), 0)
            }
            (Program::SlidingWindow(window), _) => Self::Sliding(*window, Ring::default()),
            (Program::FixedWindow(window), _) => Self::Fixed(window.clone(), 0),
            (Program::Concurrency(permits), _) => Self::Permits(*permits, 0),
            _ => unreachable!(),
        }
    }

    pub(super) fn step(&mut self, micros: u64, op: Op) -> Outcome {
        let now = Nanos::new(micros * 1000);
        match self {
            Self::Bucket(bucket, tat) => {
                let (next, outcome) = bucket.step(*tat, Nanos::new((micros - ORIGIN) * 1000), op);
                *tat = next.unwrap_or(*tat);
                outcome
            }
            Self::Sliding(window, ring) => {
                let (next, outcome) = window.step(*ring, now, op);
                *ring = next.unwrap_or(*ring);
                outcome
            }
            Self::Fixed(window, state) => {
                let (next, outcome) = window.step(*state, now, op);
                *state = next.unwrap_or(*state);
                outcome
            }
            Self::Permits(permits, held) => {
                let (next, outcome) = permits.step(*held, op);
                *held = next.unwrap_or(*held);
                outcome
            }
        }
    }

    /// As `step`, without charging; a refusal may still store a cut.
    pub(super) fn look(&mut self, micros: u64, op: Op) -> Outcome {
        match op {
            Op::Take(units) => self.step(micros, Op::Peek(units)),
            op => self.step(micros, op),
        }
    }
}

#[derive(Clone, Copy)]
pub(super) enum State {
    Word(u128),
    Ring(Ring),
}

impl Oracle {
    pub(super) fn clone_state(&self) -> State {
        match self {
            Self::Bucket(_, word) | Self::Fixed(_, word) | Self::Permits(_, word) => State::Word(*word),
            Self::Sliding(_, ring) => State::Ring(*ring),
        }
    }

    pub(super) fn restore(&mut self, state: State) {
        match (self, state) {
            (Self::Bucket(_, word) | Self::Fixed(_, word) | Self::Permits(_, word), State::Word(old)) => {
                *word = old
            }
            (Self::Sliding(_, ring), State::Ring(old)) => *ring = old,
            _ => unreachable!(),
        }
    }
}
