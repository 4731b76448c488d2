//! Clients that invent keys: as many as they like, and chosen so as to collide. Neither makes the store grow
//! beyond its capacity, nor reset anybody's counter, nor fall together on one place of a table.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "tests"
)]

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use ratelimit_core::{Algorithm, Limit, Limiter, ManualClock, MemoryStore, Overflow};

type Frozen = Limiter<MemoryStore<ManualClock>>;

fn frozen(max_keys: usize, overflow: Overflow) -> (Frozen, ManualClock) {
    let clock = ManualClock::default();
    (Limiter::new(MemoryStore::with_clock(clock.clone()).max_keys(max_keys).overflow(overflow)), clock)
}

/// Bytes of memory that this process has in use; `None` where there is no `/proc`.
fn resident() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = statm.split(' ').nth(1)?.parse().ok()?;
    // Pages are 4 KiB at least.
    Some(pages * 4096)
}

/// Rows 114 and 115, "10⁷ keys in-memory" and "victim-reset by flooding": memory stays within the capacity,
/// what found no room is counted, and whoever had a counter before has it afterwards.
#[test]
fn ten_million_invented_keys_take_bounded_memory_and_reset_no_victim() {
    // A tenth of that where nothing is optimised.
    const KEYS: u64 = if cfg!(debug_assertions) { 1_000_000 } else { 10_000_000 };
    const MOST: usize = 50_000;
    let (limiter, clock) = frozen(MOST, Overflow::Share);
    let login = Limit::new("login", "5/day".parse().unwrap());
    for victim in ["ann", "bob"] {
        for _ in 0..5 {
            assert!(limiter.try_check(&login, victim).is_allowed());
        }
    }
    let before = resident();
    let mut refused = 0;
    for key in 0..KEYS {
        refused += u64::from(!limiter.try_check(&login, key).is_allowed());
    }
    let store = limiter.store();
    let bytes = store.bytes(&login);
    assert!((16 * MOST..37 * MOST).contains(&bytes), "{bytes} bytes");
    let keys = store.keys(&login);
    assert!((MOST..=bytes / 16).contains(&keys), "{keys} keys");
    if let (Some(before), Some(after)) = (before, resident()) {
        // The other tests of this file run meanwhile.
        assert!(after.saturating_sub(before) < 64 << 20, "{before} bytes became {after}");
    }
    // All that found no room was counted, and nearly all of it refused: a shared entry has one key's quota.
    assert!(store.overflowed(&login) > KEYS - 3 * MOST as u64, "{}", store.overflowed(&login));
    assert!(refused > KEYS - 4 * MOST as u64, "{refused}");
    for victim in ["ann", "bob"] {
        assert!(!limiter.try_check(&login, victim).is_allowed(), "{victim}'s counter was reset");
    }
    // A flood leaves nothing behind but memory that is used again.
    clock.advance(Duration::from_secs(86_400));
    assert_eq!(store.keys(&login), 0);
    assert!(limiter.try_check(&login, "newcomer").is_allowed());
    assert_eq!(store.bytes(&login), bytes);
}

/// Row 115 with every algorithm and either answer to keys beyond the capacity.
#[test]
fn no_flood_gives_a_victim_anything_back() {
    for algorithm in [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow] {
        for overflow in [Overflow::Share, Overflow::Deny] {
            let (limiter, _clock) = frozen(2_000, overflow);
            let limit = Limit::new("login", "3/day".parse().unwrap()).algorithm(algorithm);
            let victims: Vec<u64> = (0..100).map(|n| u64::MAX - n).collect();
            for victim in &victims {
                (0..3).for_each(|_| assert!(limiter.try_check(&limit, victim).is_allowed()));
            }
            for key in 0..100_000_u64 {
                let _ = limiter.try_check(&limit, key);
            }
            assert!(limiter.store().overflowed(&limit) > 0);
            for victim in &victims {
                assert!(!limiter.try_check(&limit, victim).is_allowed(), "{algorithm} {overflow:?} {victim}");
            }
        }
    }
}

/// What a store that knew keys by an unseeded FxHash would know them by.
fn fx(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    words.fold(0, |hash, word| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95))
}

/// What a store with this one's hash function and no secret would know a key of bytes by.
fn unseeded(bytes: &[u8]) -> u64 {
    let mut hasher = foldhash::fast::FixedState::with_seed(0).build_hasher();
    hasher.write_u16(u16::from_le_bytes([1, bytes.len() as u8]));
    hasher.write(bytes);
    hasher.finish()
}

/// Row 116, "colliding hash keys". A lookup reads two cache lines whatever the keys are; what collisions can do
/// is to fill those of one segment, so that its keys share an entry. Keys that collide without the secret
/// must spread like any others: no entry shared, none without room, no more memory.
#[test]
fn keys_made_to_collide_spread_like_any_others() {
    const KEYS: usize = 3_000;
    const LOW_BITS: u64 = (1 << 10) - 1;
    let ordinary = (0..KEYS as u64).map(|n| [n, n].map(u64::to_le_bytes).concat());
    // The second word undoes what the first one did: one hash for all.
    let colliding_fx = (1..=KEYS as u64).map(|first| {
        let hash = fx(&first.to_le_bytes());
        [first, hash.rotate_left(5) ^ 42].map(u64::to_le_bytes).concat()
    });
    // The low bits choose the segment; all of these belong to one of a thousand.
    let colliding_fold = (0..u64::MAX)
        .map(|n| [n, 7].map(u64::to_le_bytes).concat())
        .filter(|key| unseeded(key) & LOW_BITS == 0)
        .take(KEYS);
    let ordinary: Vec<Vec<u8>> = ordinary.collect();
    let colliding_fx: Vec<Vec<u8>> = colliding_fx.collect();
    let colliding_fold: Vec<Vec<u8>> = colliding_fold.collect();
    assert_eq!(colliding_fx.iter().map(|key| fx(key)).collect::<HashSet<_>>().len(), 1);
    assert_eq!(ordinary.iter().map(|key| fx(key)).collect::<HashSet<_>>().len(), KEYS);

    let slots = |keys: &[Vec<u8>]| {
        let (limiter, _clock) = frozen(12_000, Overflow::Share);
        let limit = Limit::new("one", "1/day".parse().unwrap());
        for (number, key) in keys.iter().enumerate() {
            assert!(limiter.try_check(&limit, &**key).is_allowed(), "{number}: an entry is shared");
        }
        for key in keys {
            assert!(!limiter.try_check(&limit, &**key).is_allowed());
        }
        assert_eq!(limiter.store().overflowed(&limit), 0);
        assert_eq!(limiter.store().keys(&limit), KEYS);
        limiter.store().bytes(&limit)
    };
    let usual = slots(&ordinary);
    for (name, keys) in [("FxHash", &colliding_fx), ("foldhash", &colliding_fold)] {
        let bytes = slots(keys);
        assert!(bytes < usual * 3 / 2, "{name}: {bytes} bytes instead of {usual}");
    }
}
