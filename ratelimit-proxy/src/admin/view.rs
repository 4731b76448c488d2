//! [`View`]: what operators can see of a running proxy.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ratelimit_core::Limit;
use tokio::time::Instant;

use super::history::History;
use super::locked;
use crate::config::RedisConfig;
use crate::reload::Reloader;
use crate::rules::Rules;
use crate::state::Shared;
use crate::steer::Steering;
use crate::telemetry::{Gauges, LimitGauges, Process, ServerGauges, Snapshot, log};

/// How long a census is good. Counting live keys walks all tables, so a flood of questions must not do it each
/// time.
const CENSUS: Duration = Duration::from_secs(1);

/// What was counted of the limits of one set of rules.
struct Census {
    at: Instant,
    generation: u64,
    gauges: Vec<LimitGauges>,
}

/// A running proxy as operators see it.
pub(crate) struct View {
    shared: Arc<Shared>,
    reloader: Option<Reloader>,
    steering: Steering,
    /// The store that is shared.
    redis: Option<Box<RedisConfig>>,
    /// Whether a proxy without its store is not ready.
    needs_store: bool,
    ready: AtomicBool,
    census: Mutex<Option<Census>>,
    history: Mutex<History>,
}

impl View {
    /// Of a proxy that is not ready yet.
    pub(crate) fn new(
        shared: Arc<Shared>,
        reloader: Option<Reloader>,
        steering: Steering,
        redis: Option<Box<RedisConfig>>,
    ) -> Self {
        let needs_store = redis.as_ref().is_some_and(|redis| redis.required_for_ready);
        Self {
            shared,
            reloader,
            steering,
            redis,
            needs_store,
            ready: AtomicBool::new(false),
            census: Mutex::default(),
            history: Mutex::default(),
        }
    }

    /// What is shared by those who serve.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The rules in force.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.shared.rules.load()
    }

    /// What reads the configuration again, if it came from a file.
    pub(crate) fn reloader(&self) -> Option<&Reloader> {
        self.reloader.as_ref()
    }

    /// What changes quotas while it runs.
    pub(crate) fn steering(&self) -> &Steering {
        &self.steering
    }

    /// How the store is shared, if it is.
    pub(crate) fn redis(&self) -> Option<&RedisConfig> {
        self.redis.as_deref()
    }

    /// Why new connections are not welcome, if they are not.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        if !self.ready.load(Ordering::Relaxed) {
            Some("the proxy is not taking new connections")
        } else if self.needs_store && !self.shared.store.is_up() {
            Some("the store can't be reached")
        } else {
            None
        }
    }

    /// Says so.
    pub(crate) fn ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// The last minutes.
    pub(super) fn history(&self) -> &Mutex<History> {
        &self.history
    }

    /// The word for what a limit's "no" is worth.
    pub(crate) fn mode(limit: &Limit, off: bool) -> &'static str {
        match (off, limit.is_shadow()) {
            (true, _) => "off",
            (false, true) => "shadow",
            (false, false) => "enforce",
        }
    }

    /// All that is told in metrics.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot { totals: self.shared.metrics.totals(), gauges: self.gauges(), process: Process::now() }
    }

    /// What is measured rather than counted, at most a second old; the limits are those in force, in the order of
    /// the policy's rules.
    pub(super) fn gauges(&self) -> Gauges {
        Gauges {
            limits: self.census(),
            max_connections: self.shared.max_connections,
            log_lost: log::lost(),
            store: self.shared.store.gauges(),
            doubts: self.shared.doubts.counts(),
            upstreams: self.servers(),
            otlp_lost: self.shared.outbox.as_ref().map(|outbox| outbox.lost()),
        }
    }

    /// What is known of servers. A name may lead to several, and two upstreams may be called the same: such stand there
    /// once, and are up if one of them is.
    fn servers(&self) -> Vec<ServerGauges> {
        let rules = self.rules();
        let mut servers = BTreeMap::new();
        for group in rules.upstreams.groups() {
            for server in &group.servers {
                *servers.entry((group.name.clone(), server.target.to_string())).or_insert(false) |=
                    server.is_up();
            }
        }
        let gauges = |((upstream, server), up)| ServerGauges { upstream, server, up };
        servers.into_iter().map(gauges).collect()
    }

    fn census(&self) -> Vec<LimitGauges> {
        let mut census = locked(&self.census);
        let (now, rules) = (Instant::now(), self.rules());
        match &*census {
            Some(Census { at, generation, gauges })
                if now.duration_since(*at) < CENSUS && *generation == rules.generation() =>
            {
                gauges.clone()
            }
            _ => {
                let count = |limit: &Limit| LimitGauges {
                    name: limit.name().into(),
                    quota: limit.capacity(),
                    keys: self.shared.store.keys(limit),
                    overflowed: self.shared.store.overflowed(limit),
                    held_back: self.shared.store.held_back(limit),
                };
                let gauges: Vec<_> = rules.policy.rules().iter().map(|rule| count(&rule.limit)).collect();
                *census = Some(Census { at: now, generation: rules.generation(), gauges: gauges.clone() });
                gauges
            }
        }
    }
}
