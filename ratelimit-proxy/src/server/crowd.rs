//! [`Crowd`]: how many connections one client may have, and how fast it may make them.
//!
//! What is more is closed as soon as it is known whose it is, before anything else is done for it. Proxies that are
//! trusted may have as many as they like: theirs are those of many clients. An IPv6 client is its network, as it is
//! for limits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ratelimit_core::{Limit, Limiter, MemoryStore};

use crate::config::ServerConfig;
use crate::state::Shared;

/// Who is here.
pub(crate) struct Crowd {
    most: Option<u32>,
    present: Mutex<HashMap<IpAddr, u32>>,
    arrivals: Option<(Limiter<MemoryStore>, Limit)>,
}

impl Crowd {
    /// As many as a configuration allows.
    pub(crate) fn new(config: &ServerConfig) -> Self {
        let limit = |rate| (Limiter::new(MemoryStore::default()), Limit::new("new-connections", rate));
        Self {
            most: config.max_connections_per_client,
            present: Mutex::default(),
            arrivals: config.new_connections_per_client.map(limit),
        }
    }

    /// Whether there is room for one more of that client.
    fn admits(&self, client: IpAddr) -> bool {
        if let Some((limiter, limit)) = &self.arrivals
            && !limiter.try_check(limit, client).is_allowed()
        {
            return false;
        }
        let Some(most) = self.most else { return true };
        let mut present = self.present();
        let count = present.entry(client).or_insert(0);
        let admitted = *count < most;
        *count += u32::from(admitted);
        admitted
    }

    fn leaves(&self, client: IpAddr) {
        if let Entry::Occupied(mut count) = self.present().entry(client) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn present(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that was let in, until it is dropped.
pub(crate) struct Guest(Option<(Arc<Shared>, IpAddr)>);

impl Guest {
    /// One that nobody counts.
    pub(crate) const UNCOUNTED: Self = Self(None);

    /// One of that client; `None` if it must not come in.
    pub(crate) fn of(shared: &Arc<Shared>, client: IpAddr) -> Option<Self> {
        shared.crowd.admits(client).then(|| {
            let counted = shared.crowd.most.is_some();
            Self(counted.then(|| (Arc::clone(shared), client)))
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some((shared, client)) = &self.0 {
            shared.crowd.leaves(*client);
        }
    }
}

#[cfg(test)]
mod tests {
    use ratelimit_core::Rate;

    use super::*;

    #[test]
    fn each_client_has_room_of_its_own_and_gets_it_back() {
        let config = ServerConfig { max_connections_per_client: Some(2), ..ServerConfig::default() };
        let crowd = Crowd::new(&config);
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert_eq!([one, one, one, other].map(|client| crowd.admits(client)), [true, true, false, true]);
        crowd.leaves(one);
        assert_eq!([one, one].map(|client| crowd.admits(client)), [true, false]);
        [one, one, other, other].into_iter().for_each(|client| crowd.leaves(client));
        assert!(crowd.present().is_empty(), "who has left is forgotten");
    }

    #[test]
    fn each_client_comes_as_fast_as_it_may() {
        let rate = Some(Rate::per_hour(2));
        let crowd = Crowd::new(&ServerConfig { new_connections_per_client: rate, ..ServerConfig::default() });
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert_eq!([one, one, one, other].map(|client| crowd.admits(client)), [true, true, false, true]);
    }
}
