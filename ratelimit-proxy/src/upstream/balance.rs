//! Which of several servers is taken. Pure.
//!
//! By hash: rendezvous hashing (Thaler and Ravishankar, 1998): each server has a weight for each value, and the
//! greatest wins. A server that is lost moves its own share and nothing else; so does one that comes.

/// How a server is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    RoundRobin,
    LeastRequests,
    Hash,
}

/// A server as far as choosing goes.
pub(super) trait Choice {
    /// Requests under way.
    fn load(&self) -> u32;
    /// A number that no other server has, the same in every replica.
    fn seed(&self) -> u64;
}

/// The number of the server that is taken, of those that may be; `turn` says with which one to begin, `hash` what
/// decides if anything does.
pub(super) fn pick<C: Choice>(
    way: Way,
    servers: &[impl AsRef<C>],
    turn: usize,
    hash: Option<u64>,
    may: impl Fn(usize) -> bool,
) -> Option<usize> {
    let (behind, before) = servers.split_at(turn.checked_rem(servers.len())?);
    let turn = behind.len();
    // In turn also among those with equally few requests.
    let in_turn = (turn..).zip(before).chain((0..).zip(behind)).filter(|(number, _)| may(*number));
    let found = match (way, hash) {
        (Way::LeastRequests, _) => in_turn.min_by_key(|(_, server)| server.as_ref().load()),
        (Way::Hash, Some(hash)) => in_turn.max_by_key(|(_, server)| mix(server.as_ref().seed() ^ hash)),
        (Way::RoundRobin | Way::Hash, _) => { in_turn }.next(),
    };
    found.map(|(number, _)| number)
}

/// How many servers are used at least: a quarter, and one. Where fewer are thought to work, the thought is likely
/// wrong, or those few would be overrun; then all are used.
pub(super) const fn floor(servers: usize) -> usize {
    servers.div_ceil(4)
}

/// The finaliser of MurmurHash3: each bit of the input changes each bit of the output with one chance in two.
const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct Fake(u32, u64);

    impl Choice for Fake {
        fn load(&self) -> u32 {
            self.0
        }

        fn seed(&self) -> u64 {
            self.1
        }
    }

    fn servers(loads: &[u32]) -> Vec<Arc<Fake>> {
        let seed = |name: usize| {
            u64::from_le_bytes(blake3::hash(&name.to_le_bytes()).as_bytes()[..8].try_into().unwrap())
        };
        loads.iter().enumerate().map(|(number, load)| Arc::new(Fake(*load, seed(number)))).collect()
    }

    #[test]
    fn in_turn_over_those_that_may() {
        let servers = servers(&[0, 0, 0]);
        let picks = |may: fn(usize) -> bool| -> Vec<_> {
            (0..6).map(|turn| pick(Way::RoundRobin, &servers, turn, None, may)).collect()
        };
        assert_eq!(picks(|_| true), [0, 1, 2, 0, 1, 2].map(Some));
        assert_eq!(picks(|number| number != 1), [0, 2, 2, 0, 2, 2].map(Some));
        assert_eq!(picks(|_| false), [None; 6]);
        assert_eq!(pick::<Fake>(Way::RoundRobin, &[] as &[Arc<Fake>], 5, None, |_| true), None);
    }

    #[test]
    fn the_least_loaded_and_in_turn_among_equals() {
        let servers = servers(&[2, 1, 1, 3]);
        let pick = |turn, may: fn(usize) -> bool| pick(Way::LeastRequests, &servers, turn, None, may);
        assert_eq!([0, 1, 2, 3].map(|turn| pick(turn, |_| true)), [1, 1, 2, 1].map(Some));
        assert_eq!(pick(0, |number| number != 1 && number != 2), Some(0));
    }

    #[test]
    fn a_lost_server_moves_its_own_share_and_nothing_else() {
        let servers = servers(&[0; 5]);
        let of = |may: &dyn Fn(usize) -> bool| -> Vec<usize> {
            // Values as alike as they can be.
            (0..10_000).map(|value| pick(Way::Hash, &servers, 0, Some(value), may).unwrap()).collect()
        };
        let whole = of(&|_| true);
        for lost in 0..5 {
            let without = of(&|number| number != lost);
            let share = whole.iter().filter(|server| **server == lost).count();
            assert!((1700..2300).contains(&share), "{lost} has {share} of 10000");
            for (before, after) in whole.iter().zip(&without) {
                assert!(before == after || *before == lost);
                assert_ne!(*after, lost);
            }
            // What moves is spread over all that are left.
            for other in (0..5).filter(|other| *other != lost) {
                let moved = whole.iter().zip(&without).filter(|(b, a)| **b == lost && **a == other).count();
                assert!(moved > share / 4 * 3 / 4, "{moved} of {share} moved from {lost} to {other}");
            }
        }
    }

    #[test]
    fn a_quarter_is_kept_and_one_at_least() {
        assert_eq!([1, 2, 4, 5, 8, 9].map(floor), [1, 1, 1, 2, 2, 3]);
    }
}
