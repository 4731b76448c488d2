//! [`Budget`]: how many requests may be tried again. Where a whole upstream is in trouble, trying everything twice is
//! what keeps it there.

use std::cell::Cell;

/// What trying again costs; a request pays in 1, so every fifth may be tried again.
const PRICE: u32 = 5;
/// What is there at first and at most: enough for ten in a row.
const MOST: u32 = 10 * PRICE;

/// The budget of one upstream and thread.
#[derive(Debug)]
pub(super) struct Budget(Cell<u32>);

impl Default for Budget {
    fn default() -> Self {
        Self(Cell::new(MOST))
    }
}

impl Budget {
    /// A request came.
    pub(super) fn pay_in(&self) {
        self.0.set((self.0.get() + 1).min(MOST));
    }

    /// Whether it, or another, may be tried again; then it is.
    pub(super) fn draw(&self) -> bool {
        let left = self.0.get().checked_sub(PRICE);
        self.0.set(left.unwrap_or(self.0.get()));
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_all_requests_and_ten_in_a_row() {
        let budget = Budget::default();
        assert_eq!((0..20).filter(|_| budget.draw()).count(), 10);
        let again = (0..1000).filter(|_| {
            budget.pay_in();
            budget.draw()
        });
        assert_eq!(again.count(), 200);
        (0..1000).for_each(|_| budget.pay_in());
        assert_eq!((0..20).filter(|_| budget.draw()).count(), 10, "what is not used does not pile up");
    }
}
