//! [`Upstreams`]: where requests go, as one configuration says it. The servers are those of the configuration before
//! where they stay, so that what is known of them stays, too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::balance::{Way, floor};
use super::server::Server;
use crate::config::{Balance, Config, HealthCheck, Upstream};
use crate::policy::Policy;

/// All upstreams, in the order of the file; at least one.
#[derive(Debug)]
pub(crate) struct Upstreams {
    groups: Box<[Arc<Group>]>,
}

/// One upstream: servers that do the same.
#[derive(Debug)]
pub(crate) struct Group {
    /// Which requests it takes, in words.
    pub(crate) name: Box<str>,
    /// At least one.
    pub(crate) servers: Box<[Arc<Server>]>,
    pub(super) way: Way,
    /// How long to wait for a connection and for an answer, where that is not as it is for all.
    pub(crate) timeouts: (Option<Duration>, Option<Duration>),
    /// How often a request may be tried again.
    pub(crate) retries: u32,
    pub(crate) check: Option<HealthCheck>,
}

/// What makes two servers of two configurations the same.
type Identity = (String, Option<HealthCheck>);

impl Upstreams {
    /// What `config` says; `policy` is made of it. `before` is what was in force.
    pub(crate) fn new(config: &Config, policy: &Policy, before: Option<&Self>) -> Self {
        let mut known: HashMap<Identity, Arc<Server>> = HashMap::new();
        for group in before.into_iter().flat_map(|before| &before.groups) {
            for server in &group.servers {
                let identity = (server.target.to_string(), group.check.clone());
                known.insert(identity, Arc::clone(server));
            }
        }
        let group = |(number, upstream): (usize, &Upstream)| {
            let servers = upstream.servers.iter().map(|target| {
                let identity = (target.to_string(), upstream.health_check.clone());
                Arc::clone(known.entry(identity).or_insert_with(|| Arc::new(Server::new(target.clone()))))
            });
            Arc::new(Group {
                servers: servers.collect(),
                name: policy.taken_by(number).into(),
                way: match upstream.balance {
                    Balance::RoundRobin => Way::RoundRobin,
                    Balance::LeastRequests => Way::LeastRequests,
                    Balance::Hash(_) => Way::Hash,
                },
                timeouts: (upstream.connect, upstream.response),
                retries: upstream.retries,
                check: upstream.health_check.clone(),
            })
        };
        Self { groups: config.upstreams.iter().enumerate().map(group).collect() }
    }

    /// All of them.
    pub(crate) fn groups(&self) -> &[Arc<Group>] {
        &self.groups
    }
}

impl Group {
    /// Whether one server less is enough.
    pub(super) fn can_spare_one(&self) -> bool {
        self.servers.iter().filter(|server| server.is_up()).count() > floor(self.servers.len())
    }
}
