//! [`Spare`]: file descriptors held for the moment when there are no others, so that operators can see that
//! moment.

use std::fs::File;

/// One for a connection and one to read what the kernel says about this process.
const COUNT: usize = 2;

/// Descriptors that nobody else can use meanwhile.
#[derive(Debug)]
pub(super) struct Spare(Vec<File>);

impl Spare {
    /// Takes them.
    pub(super) fn new() -> Self {
        let mut spare = Self(Vec::with_capacity(COUNT));
        spare.refill();
        spare
    }

    /// Gives them up, to be used at once. False if there were none.
    pub(super) fn release(&mut self) -> bool {
        let held = !self.is_spent();
        self.0.clear();
        held
    }

    /// Whether they were given up and could not be taken again yet.
    pub(super) fn is_spent(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes those that are missing, as far as they can be had.
    pub(super) fn refill(&mut self) {
        while self.0.len() < COUNT {
            let Ok(file) = File::open("/dev/null") else { return };
            self.0.push(file);
        }
    }
}
