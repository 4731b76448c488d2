//! Atomics and locks, from the standard library or, under `--cfg loom`, from the model checker.

#[cfg(not(loom))]
mod real {
    pub(crate) use portable_atomic::AtomicU128;
    pub(crate) use std::hint::spin_loop;
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
    pub(crate) use std::sync::{Mutex, MutexGuard, OnceLock};
    pub(crate) use std::thread::yield_now;
}

#[cfg(not(loom))]
pub(crate) use real::*;

#[cfg(loom)]
mod modelled;
#[cfg(loom)]
pub(crate) use modelled::*;
