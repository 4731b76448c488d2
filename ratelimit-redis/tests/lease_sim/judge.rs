//! Judges what was admitted, knowing nothing of leases: for every key and every interval.

/// What one key was admitted: when, in nanoseconds, and how much.
#[derive(Default)]
pub struct Judge {
    admitted: Vec<(u64, u32)>,
}

impl Judge {
    pub fn admit(&mut self, at: u64, units: u32) {
        self.admitted.push((at, units));
    }

    pub fn units(&self) -> u64 {
        self.admitted.iter().map(|&(_, units)| u64::from(units)).sum()
    }

    /// Units admitted since then.
    pub fn since(&self, from: u64) -> Self {
        Self { admitted: self.admitted.iter().copied().filter(|&(at, _)| at >= from).collect() }
    }

    /// By how much, in nanoseconds of refill, the worst of all intervals exceeds burst + W / T. Zero: none does.
    pub fn excess(&self, interval: u64, burst: u32) -> i128 {
        let mut admitted = self.admitted.clone();
        admitted.sort_by_key(|&(at, _)| at);
        let interval = i128::from(interval);
        let (mut before, mut start, mut worst) = (0, i128::MIN, 0);
        for (at, units) in admitted {
            let at = i128::from(at);
            // An interval that begins here: its length counts from here, its units from those before.
            start = start.max(at - before * interval);
            before += i128::from(units);
            worst = worst.max(before * interval - at + start - i128::from(burst) * interval);
        }
        worst
    }
}

#[test]
fn the_judge_sees_a_unit_too_many() {
    let mut judge = Judge::default();
    for at in [0, 0, 0, 10, 20] {
        judge.admit(at, 1);
    }
    assert_eq!(judge.excess(10, 3), 0);
    judge.admit(15, 1);
    assert_eq!(judge.excess(10, 3), 10, "six units in 20 ns, of three and one each 10 ns");
    judge.admit(20, 2);
    assert_eq!(judge.excess(10, 3), 30);
}
