//! [`Series`]: what happened when, in a bounded number of steps however long the log is.

/// Steps kept at most; then two become one.
const MOST: usize = 480;

/// Counts over time.
#[derive(Debug)]
pub(crate) struct Series {
    /// The second that the first step begins with, a multiple of the width.
    start: u64,
    /// Seconds a step.
    width: u64,
    steps: Vec<Step>,
    limits: usize,
}

/// One step.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Step {
    /// Requests in all.
    pub(crate) requests: u64,
    /// Those that no limit let pass.
    pub(crate) denied: u64,
    /// How many each limit denied, in the order of the file.
    pub(crate) by_limit: Vec<u64>,
}

impl Step {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.denied += other.denied;
        self.by_limit.iter_mut().zip(&other.by_limit).for_each(|(mine, theirs)| *mine += theirs);
    }
}

impl Series {
    /// Of so many limits.
    pub(super) const fn new(limits: usize) -> Self {
        Self { start: 0, width: 1, steps: Vec::new(), limits }
    }

    /// A request in that second, and who denied it. Seconds never go back.
    pub(super) fn add(&mut self, second: u64, denied: bool, by: impl Iterator<Item = usize>) {
        if self.steps.is_empty() {
            self.start = second;
        }
        while (second.saturating_sub(self.start) / self.width) >= MOST as u64 {
            self.coarsen();
        }
        let index = usize::try_from(second.saturating_sub(self.start) / self.width).unwrap_or(usize::MAX);
        while self.steps.len() <= index {
            self.steps.push(Step { requests: 0, denied: 0, by_limit: vec![0; self.limits] });
        }
        let Some(step) = self.steps.get_mut(index) else { return };
        step.requests += 1;
        step.denied += u64::from(denied);
        for limit in by {
            if let Some(count) = step.by_limit.get_mut(limit) {
                *count += 1;
            }
        }
    }

    /// Two steps become one, such that steps begin at multiples of their width.
    fn coarsen(&mut self) {
        self.width *= 2;
        let start = self.start - self.start % self.width;
        let lone = usize::from(start != self.start);
        let mut merged: Vec<Step> = Vec::with_capacity(self.steps.len() / 2 + 1);
        for (number, step) in self.steps.drain(..).enumerate() {
            match merged.last_mut() {
                Some(last) if (number + lone) % 2 == 1 => last.add(&step),
                _ => merged.push(step),
            }
        }
        self.start = start;
        self.steps = merged;
    }

    /// The steps, each with the second it begins with.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (u64, &Step)> {
        self.steps.iter().zip(0..).map(|(step, number): (_, u64)| (self.start + number * self.width, step))
    }

    /// Seconds a step.
    pub(crate) const fn width(&self) -> u64 {
        self.width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_when_steps_become_coarser() {
        let mut series = Series::new(1);
        let seconds: Vec<u64> = (0..200_000).step_by(7).map(|second| 1_000_003 + second).collect();
        for second in &seconds {
            series.add(*second, second % 2 == 0, (second % 2 == 0).then_some(0).into_iter());
        }
        assert!(series.steps.len() <= MOST);
        let even = |range: std::ops::Range<u64>| {
            seconds.iter().filter(|second| range.contains(second) && **second % 2 == 0).count()
        };
        let mut total = 0;
        for (start, step) in series.steps() {
            let range = start..start + series.width();
            assert_eq!(step.requests, seconds.iter().filter(|second| range.contains(second)).count() as u64);
            assert_eq!((step.denied, step.by_limit[0]), (even(range.clone()) as u64, even(range) as u64));
            total += step.requests;
        }
        assert_eq!(total, seconds.len() as u64);
    }
}
