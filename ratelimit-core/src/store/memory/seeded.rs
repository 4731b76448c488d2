//! [`Seeded`]: from a key to its tag, by a hash that nobody outside can foretell.
//!
//! foldhash, because a key is hashed for each decision. Its own random state is drawn from addresses and the clock;
//! ours from the system's randomness, or who learns when the process started could aim at another key's entry.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;

use super::slot::Tag;
use crate::key::Key;

pub(super) struct Seeded {
    own: u64,
    shared: SharedSeed,
}

impl Seeded {
    pub(super) fn new() -> Self {
        // The standard library asks the system, and hashes what it got with a hash that gives nothing away.
        let drawn = RandomState::new();
        Self { own: drawn.hash_one(0), shared: SharedSeed::from_u64(drawn.hash_one(1)) }
    }

    #[inline(always)]
    pub(super) fn tag(&self, key: Key<'_>) -> Tag {
        let mut hasher = FoldHasher::with_seed(self.own, &self.shared);
        let (lead, rest) = key.parts();
        // Written as a number, it is mixed in last, by a multiplication with a secret: what makes the difference
        // between foldhash's fast hash and its good one.
        hasher.write_u16(u16::from_le_bytes(lead));
        hasher.write(rest);
        Tag::of(hasher.finish())
    }
}
