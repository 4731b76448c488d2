//! [`Upstreams`]: where requests go, as one configuration says it. The servers are those of the configuration before
//! where they stay, so that what is known of them stays, too. A name is as many servers as it has addresses.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::balance::{Way, floor};
use super::names::Name;
use super::server::Server;
use super::target::{Scheme, Target};
use super::tls::{Tls, TlsParts};
use crate::config::{Balance, Config, HealthCheck, Match, Upstream};

/// How long either side of a gRPC call may be silent where nothing is said about it: such calls wait for events.
const SILENCE: Duration = Duration::from_secs(3600);

/// A name, and where it led when that was asked, if it was known.
type Found = (Arc<Name>, Option<Arc<[IpAddr]>>);

/// All upstreams, in the order of the file; at least one.
#[derive(Clone, Debug)]
pub(crate) struct Upstreams {
    written: Arc<[Upstream]>,
    /// The names of servers, with the addresses that the groups were made of.
    names: Arc<HashMap<Box<str>, Found>>,
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
    /// How long either side of a gRPC call may be silent.
    pub(crate) silence: Duration,
    /// How often a request may be tried again.
    pub(crate) retries: u32,
    pub(crate) check: Option<HealthCheck>,
}

/// What makes two servers of two configurations the same.
#[derive(PartialEq, Eq, Hash)]
struct Identity {
    url: String,
    address: Option<IpAddr>,
    check: Option<HealthCheck>,
    tls: Option<blake3::Hash>,
}

impl Identity {
    fn new(target: &Target, check: Option<&HealthCheck>, tls: Option<&Tls>) -> Self {
        let tls = tls.map(Tls::digest);
        Self { url: target.to_string(), address: target.address(), check: check.cloned(), tls }
    }
}

impl Upstreams {
    /// What `config` says. `before` is what was in force.
    pub(crate) fn new(config: &Config, before: Option<&Self>) -> Self {
        let known = before.map(|before| &before.names);
        let targets = config.upstreams.iter().flat_map(|upstream| &upstream.servers);
        let hosts: HashSet<_> = targets.filter_map(Target::host).collect();
        let names = hosts.into_iter().map(|host| match known.and_then(|names| names.get(&host)) {
            Some((name, _)) if name.dns == config.dns => Arc::clone(name),
            found => {
                let before = found.map(|(name, _)| &**name);
                Arc::new(Name::new(host, Arc::clone(&config.dns), before))
            }
        });
        Self::build(config.upstreams.as_slice().into(), names, before)
    }

    /// The same, with names that lead where they do now.
    pub(crate) fn readdressed(&self) -> Self {
        Self::build(Arc::clone(&self.written), self.names().cloned(), Some(self))
    }

    fn build(
        written: Arc<[Upstream]>,
        names: impl Iterator<Item = Arc<Name>>,
        before: Option<&Self>,
    ) -> Self {
        let names: HashMap<_, _> = names
            .map(|name| (name.host.clone(), name))
            .map(|(host, name)| (host, (Arc::clone(&name), name.addresses())))
            .collect();
        let mut known: HashMap<Identity, Arc<Server>> = HashMap::new();
        for group in before.into_iter().flat_map(|before| &before.groups) {
            for server in &group.servers {
                let identity = Identity::new(&server.target, group.check.as_ref(), server.tls.as_ref());
                known.insert(identity, Arc::clone(server));
            }
        }
        let group = |upstream: &Upstream| {
            let mut servers = Vec::new();
            for target in &upstream.servers {
                let named = target.host().and_then(|host| names.get(&host));
                let targets = match named {
                    Some((_, Some(addresses))) => {
                        addresses.iter().map(|address| target.at(*address)).collect()
                    }
                    _ => vec![target.clone()],
                };
                let is_secure = target.scheme() == Scheme::Https;
                let tls = is_secure.then(|| upstream.tls.clone().or_else(system)).flatten();
                servers.extend(targets.into_iter().map(|target| {
                    let identity = Identity::new(&target, upstream.health_check.as_ref(), tls.as_ref());
                    let name = named.map(|(name, _)| Arc::clone(name));
                    let new = || Arc::new(Server::new(target, name, tls.clone()));
                    Arc::clone(known.entry(identity).or_insert_with(new))
                }));
            }
            Arc::new(Group {
                name: name(&upstream.matches).into(),
                way: match upstream.balance {
                    Balance::RoundRobin => Way::RoundRobin,
                    Balance::LeastRequests => Way::LeastRequests,
                    Balance::Hash(_) => Way::Hash,
                },
                timeouts: (upstream.connect, upstream.response),
                silence: upstream.stream.or(upstream.response).unwrap_or(SILENCE),
                // Where there is another server, nobody needs to notice that one went away.
                retries: upstream.retries.unwrap_or(u32::from(servers.len() > 1)),
                check: upstream.health_check.clone(),
                servers: servers.into(),
            })
        };
        let groups = written.iter().map(group).collect();
        Self { written, names: Arc::new(names), groups }
    }

    /// The names that have to be looked up.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<Name>> {
        self.names.values().map(|(name, _)| name)
    }

    /// Whether all names lead where the servers are.
    pub(super) fn are_where_they_were(&self) -> bool {
        self.names.values().all(|(name, addresses)| name.addresses() == *addresses)
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
