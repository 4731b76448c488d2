//! Rate limits that hold. (front page to be written)

mod decision;
mod error;
mod key;
mod limit;
mod limiter;
mod rate;
mod sync;

pub mod algorithm;
#[cfg(feature = "tower")]
pub mod fields;
pub mod guide;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
#[cfg(feature = "tower")]
pub mod tower;

pub use decision::Decision;
pub use error::{CheckError, StoreError, StoreErrorKind};
#[cfg(feature = "tower")]
pub use fields::{FieldStyle, Fields, ResetFormat};
pub use key::{AsKey, Key, KeyBuf};
pub use limit::{Algorithm, Limit, LimitError, LimitId, LimitSpec, Mode};
pub use limiter::{Limiter, Permit, Reservation};
pub use rate::{MAX_PER_SECOND, MAX_PERIOD_SECONDS, Period, Rate, RateError};
pub use store::{LocalStore, MemoryStore, Overflow, Store};
pub use time::{ManualClock, Nanos, SystemClock};
#[cfg(feature = "tokio")]
pub use time::TokioClock;
