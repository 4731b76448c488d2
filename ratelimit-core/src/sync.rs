//! Atomics and locks, from the standard library or, under `--cfg ratelimit_loom`, from the model checker.
//! (`--cfg loom` would switch dependencies over as well.)

#[cfg(not(ratelimit_loom))]
mod real {
    pub(crate) use portable_atomic::AtomicU128;
    pub(crate) use std::hint::spin_loop;
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    pub(crate) use std::sync::{Mutex, MutexGuard};
    pub(crate) use std::thread::yield_now;
}

#[cfg(not(ratelimit_loom))]
pub(crate) use real::*;

#[cfg(ratelimit_loom)]
mod modelled {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    pub(crate) use loom::sync::{Mutex, MutexGuard};
    pub(crate) use loom::thread::yield_now;
    // A thread that spins must let the others run, or the model never ends.
    pub(crate) use loom::thread::yield_now as spin_loop;

    /// Loom has no 16-byte atomic. The store's reasoning about one is per location with acquire and release,
    /// which a lock gives; what loom explores is every order of the accesses.
    #[derive(Debug)]
    pub(crate) struct AtomicU128(Mutex<u128>);

    impl AtomicU128 {
        pub(crate) fn new(value: u128) -> Self {
            Self(Mutex::new(value))
        }

        fn value(&self) -> MutexGuard<'_, u128> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }

        pub(crate) fn load(&self, _: Ordering) -> u128 {
            *self.value()
        }

        pub(crate) fn store(&self, value: u128, _: Ordering) {
            *self.value() = value;
        }

        pub(crate) fn compare_exchange(
            &self,
            old: u128,
            new: u128,
            _: Ordering,
            _: Ordering,
        ) -> Result<u128, u128> {
            let mut value = self.value();
            if *value != old {
                return Err(*value);
            }
            *value = new;
            Ok(old)
        }
    }
}

#[cfg(ratelimit_loom)]
pub(crate) use modelled::*;
