//! [`Upstreams`]: where requests go, as one configuration says it. The servers are those of the configuration before
//! where they stay, so that what is known of them stays, too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::balance::{Way, floor};
use super::server::Server;
use super::target::Scheme;
use super::tls::{Tls, TlsParts};
use crate::config::{Balance, Config, HealthCheck, Match, Upstream};

/// All upstreams, in the order of the file; at least one.
#[derive(Clone, Debug)]
pub(crate) struct Upstreams {
    groups: Box<[Arc<Group>]>,
}

/// One upstream: servers that do the same.
#[derive(Debug)]
pub(crate) struct Group {
    /// Which requests it takes, in words, without values that may be secrets.
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
type Identity = (String, Option<HealthCheck>, Option<blake3::Hash>);

impl Upstreams {
    /// What `config` says. `before` is what was in force.
    pub(crate) fn new(config: &Config, before: Option<&Self>) -> Self {
        let mut known: HashMap<Identity, Arc<Server>> = HashMap::new();
        for group in before.into_iter().flat_map(|before| &before.groups) {
            for server in &group.servers {
                let identity =
                    (server.target.to_string(), group.check.clone(), server.tls.as_ref().map(Tls::digest));
                known.insert(identity, Arc::clone(server));
            }
        }
        let group = |upstream: &Upstream| {
            let servers = upstream.servers.iter().map(|target| {
                let tls = (target.scheme() == Scheme::Https)
                    .then(|| upstream.tls.clone().or_else(system))
                    .flatten();
                let identity =
                    (target.to_string(), upstream.health_check.clone(), tls.as_ref().map(Tls::digest));
                Arc::clone(
                    known.entry(identity).or_insert_with(|| Arc::new(Server::new(target.clone(), tls))),
                )
            });
            Arc::new(Group {
                servers: servers.collect(),
                name: name(&upstream.matches).into(),
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
        Self { groups: config.upstreams.iter().map(group).collect() }
    }

    /// All of them.
    pub(crate) fn groups(&self) -> &[Arc<Group>] {
        &self.groups
    }
}

impl Group {
    /// How a server is taken, in the word of the configuration.
    pub(crate) const fn balance(&self) -> &'static str {
        match self.way {
            Way::RoundRobin => "round_robin",
            Way::LeastRequests => "least_requests",
            Way::Hash => "hash",
        }
    }

    /// Whether one server less is enough.
    pub(super) fn can_spare_one(&self) -> bool {
        self.servers.iter().filter(|server| server.is_up()).count() > floor(self.servers.len())
    }
}

/// Verified by the authorities of the system.
fn system() -> Option<Tls> {
    Tls::new(&TlsParts::default()).ok()
}

/// Which requests, in words; of fields only the names, since values may be secrets.
fn name(matches: &Match) -> String {
    // Nobody asks Envoy's questions of an upstream.
    let Match { path, methods, host, headers, query, jwt, client_ip, not, domain: _, descriptors: _ } =
        matches;
    let mut words: Vec<String> = methods.iter().map(ToString::to_string).collect();
    words.extend(path.iter().map(ToString::to_string));
    words.extend(host.iter().map(|host| format!("host {host}")));
    words.extend(headers.iter().map(|(name, _)| format!("header {name}")));
    words.extend(query.iter().map(|(name, _)| format!("query {name}")));
    words.extend(jwt.iter().map(|(claim, _)| format!("jwt.{claim}")));
    words.extend(client_ip.iter().map(|net| format!("client {net}")));
    words.extend(not.iter().map(|not| format!("not ({})", name(not))));
    if words.is_empty() { "all".to_owned() } else { words.join(" ") }
}
