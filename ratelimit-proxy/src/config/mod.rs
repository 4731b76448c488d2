//! The configuration: the language it is written in, and what it comes to ([`Config`]).

mod model;
pub mod words;

pub use self::model::{
    ClientIp, Config, Cost, LimitConfig, LogConfig, LogKeys, LogRequests, Match, MemoryConfig, Missing,
    Override, Quota, ServerConfig, Trust,
};
