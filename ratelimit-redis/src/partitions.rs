//! Partitions: into how many parts the keys of a store are cut, so that the nodes of a Cluster share the work.
//!
//! A partition is a hash tag, which puts all its keys into one slot; so one script decides about any of them. The
//! tags are fixed and lie evenly over the slots, of which nodes usually serve contiguous ranges. Which partition
//! a key is in depends on the key alone and not on its limit: the limits that count by the same key are decided
//! in one step, all or nothing.

use std::num::NonZero;

use ratelimit_core::Key;

/// Slots of a Cluster.
const SLOTS: usize = 16_384;
/// The tag of a store that has one partition.
const ONLY: &str = "10";

/// A number of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partitions(NonZero<u8>);

impl Partitions {
    pub(crate) const ONE: Self = Self(NonZero::<u8>::MIN);
    /// Over three nodes the busiest has an eighth more than its fair share. More would make batches smaller and
    /// more requests travel to several places.
    pub(crate) const CLUSTER: Self = Self(NonZero::<u8>::MIN.saturating_add(15));

    pub(crate) const fn new(number: NonZero<u8>) -> Self {
        Self(number)
    }

    pub(crate) fn number(self) -> usize {
        usize::from(self.0.get())
    }

    /// The partition of a key: the same on every replica, of every version.
    pub(crate) fn of(self, key: Key<'_>) -> usize {
        if self == Self::ONE {
            return 0;
        }
        let (lead, rest) = key.parts();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&lead).update(rest);
        let mut number = [0; 8];
        hasher.finalize_xof().fill(&mut number);
        usize::try_from(u64::from_le_bytes(number) % u64::from(self.0.get())).unwrap_or(0)
    }

    /// The partitions' tags: for each the smallest number whose slot lies in the partition's part of all slots.
    pub(crate) fn tags(self) -> Vec<String> {
        if self == Self::ONE {
            return vec![ONLY.to_owned()];
        }
        let mut tags = vec![None; self.number()];
        let mut missing = tags.len();
        for number in 0_u32.. {
            let tag = number.to_string();
            let part = usize::from(slot(&tag)) * self.number() / SLOTS;
            if let Some(free @ None) = tags.get_mut(part) {
                *free = Some(tag);
                missing -= 1;
            }
            if missing == 0 {
                break;
            }
        }
        tags.into_iter().flatten().collect()
    }
}

/// The slot that a Cluster puts keys with that hash tag into: CRC-16 as XMODEM has it.
pub(crate) fn slot(tag: &str) -> u16 {
    let step = |crc: u16, byte: u8| {
        let mixed = crc ^ (u16::from(byte) << 8);
        (0..8).fold(mixed, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 })
    };
    tag.bytes().fold(0, step) & 0x3fff
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratelimit_core::{AsKey, KeyBuf};

    fn partition(partitions: Partitions, key: impl AsKey) -> usize {
        let mut buffer = KeyBuf::new();
        key.encode(&mut buffer);
        partitions.of(buffer.key())
    }

    /// As the specification of Redis Cluster has it.
    #[test]
    fn slots_are_those_of_a_cluster() {
        assert_eq!([slot("123456789"), slot("foo")], [0x31c3, 12_182]);
    }

    /// Replicas of different versions must agree on tags and partitions.
    #[test]
    fn tags_never_change() {
        let expected = "10 3 61 43 11 2 60 42 12 1 63 41 13 0 62 40";
        assert_eq!(Partitions::CLUSTER.tags().join(" "), expected);
        assert_eq!(Partitions::ONE.tags(), ["10"]);
        let sixteen = Partitions::CLUSTER;
        assert_eq!(
            [partition(sixteen, "ann"), partition(sixteen, ()), partition(sixteen, 7_u64)],
            [7, 10, 6]
        );
    }

    #[test]
    fn tags_lie_evenly_and_are_told_apart() {
        for number in [2, 3, 16, 100, 255] {
            let tags = Partitions::new(NonZero::new(number).unwrap()).tags();
            for (part, tag) in tags.iter().enumerate() {
                let first = part * SLOTS / tags.len();
                assert!(
                    (first..first + SLOTS / tags.len() + 1).contains(&usize::from(slot(tag))),
                    "{number} {tag}"
                );
            }
        }
    }

    #[test]
    fn keys_are_spread() {
        let mut found = [0; 16];
        (0..16_000_u64).for_each(|key| found[partition(Partitions::CLUSTER, key)] += 1);
        assert!(found.iter().all(|keys| (850..1150).contains(keys)), "{found:?}");
    }
}
