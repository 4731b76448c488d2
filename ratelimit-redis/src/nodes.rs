//! The nodes of a Cluster: who serves which slot, and one connection to each that is needed.
//!
//! Each partition follows redirections by itself and asks here for the node that it is sent to. A node that does
//! not answer keeps nobody waiting but those who want something of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};

use crate::topology::Topology;

/// Host and port of a node.
pub(crate) type Address = (String, u16);

/// A node, and the connection to it that all partitions share which it serves.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) address: Address,
    pub(crate) connection: MultiplexedConnection,
    /// Tells connections apart.
    id: u64,
}

/// What is known of a Cluster.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    state: Mutex<State>,
    /// Held by who asks for the map: everybody else waits for that answer.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    owners: Vec<Range>,
    /// Every node that was ever named: who can be asked for the map when those that were configured are gone.
    known: Vec<Address>,
    /// Counts maps.
    version: u64,
    places: HashMap<Address, Arc<Place>>,
    connections: u64,
}

/// Slots in a row, and the master that serves them.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    first: u16,
    last: u16,
    master: Address,
}

/// Where the connection to a node is kept.
#[derive(Default)]
struct Place {
    /// Held by who makes it.
    making: tokio::sync::Mutex<()>,
    node: Mutex<Option<Node>>,
}

impl Nodes {
    /// The node that serves `slot`, as a node says that answers.
    pub(crate) async fn serving(
        &self,
        slot: u16,
        topology: &Topology,
        deadline: Duration,
    ) -> Result<Node, RedisError> {
        let version = self.state().version;
        {
            let _asking = self.asking.lock().await;
            // Somebody else may have asked while we waited.
            if self.state().version == version {
                self.ask(topology, deadline).await?;
            }
        }
        let owner = self.state().owner(slot);
        match owner {
            Some(address) => self.node(address, topology, deadline).await,
            None => Err((redis::ErrorKind::Client, "no node serves the slot").into()),
        }
    }

    /// The node there, over the connection that is shared.
    pub(crate) async fn node(
        &self,
        address: Address,
        topology: &Topology,
        deadline: Duration,
    ) -> Result<Node, RedisError> {
        let place = Arc::clone(self.state().places.entry(address.clone()).or_default());
        if let Some(node) = place.node().clone() {
            return Ok(node);
        }
        let _making = place.making.lock().await;
        if let Some(node) = place.node().clone() {
            return Ok(node);
        }
        let connection = topology.open_node(&address, deadline).await?;
        let id = {
            let mut state = self.state();
            state.connections += 1;
            state.connections
        };
        let node = Node { address, connection, id };
        *place.node() = Some(node.clone());
        Ok(node)
    }

    /// The connection is of no use any more; who needs the node gets another one.
    pub(crate) fn discard(&self, node: &Node) {
        let place = self.state().places.get(&node.address).map(Arc::clone);
        if let Some(place) = place {
            place.node().take_if(|kept| kept.id == node.id);
        }
    }

    /// Asks for the map: first whom we are connected to, then everybody. The first that answers is believed; where
    /// it is wrong, redirections lead on.
    async fn ask(&self, topology: &Topology, deadline: Duration) -> Result<(), RedisError> {
        let (connected, known) = {
            let state = self.state();
            let connected =
                |address: &&Address| state.places.get(*address).is_some_and(|place| place.node().is_some());
            let known = topology.addresses().chain(state.known.iter().cloned()).collect::<Vec<_>>();
            (state.known.iter().filter(connected).cloned().collect::<Vec<_>>(), known)
        };
        let mut failed = None;
        for some in [connected, known] {
            let mut answers: FuturesUnordered<_> =
                some.into_iter().map(|address| self.ask_one(address, topology, deadline)).collect();
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok(owners) => {
                        self.state().heard(owners);
                        return Ok(());
                    }
                    Err(error) => failed = Some(error),
                }
            }
        }
        Err(failed.unwrap_or_else(|| (redis::ErrorKind::Client, "no node is known").into()))
    }

    async fn ask_one(
        &self,
        address: Address,
        topology: &Topology,
        deadline: Duration,
    ) -> Result<Vec<(Range, Vec<Address>)>, RedisError> {
        let mut node = self.node(address, topology, deadline).await?;
        let answer = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut node.connection).await;
        let answer = answer.inspect_err(|error: &RedisError| {
            if error.is_timeout() || error.is_unrecoverable_error() {
                self.discard(&node);
            }
        })?;
        let owners = read(&answer, &node.address.0);
        let useless = || RedisError::from((redis::ErrorKind::Client, "the node knows no slot's master"));
        if owners.is_empty() { Err(useless()) } else { Ok(owners) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn owner(&self, slot: u16) -> Option<Address> {
        let range = self.owners.iter().find(|range| (range.first..=range.last).contains(&slot))?;
        Some(range.master.clone())
    }

    fn heard(&mut self, owners: Vec<(Range, Vec<Address>)>) {
        self.version += 1;
        let (ranges, nodes): (Vec<_>, Vec<_>) = owners.into_iter().unzip();
        self.known = nodes.into_iter().flatten().collect();
        self.known.sort_unstable();
        self.known.dedup();
        self.owners = ranges;
        // Nodes that left the Cluster: their connection ends with the last who uses it.
        let known = std::mem::take(&mut self.known);
        self.places.retain(|address, _| known.contains(address));
        self.known = known;
    }
}

impl Place {
    fn node(&self) -> MutexGuard<'_, Option<Node>> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Place")
    }
}

/// Reads the answer to `CLUSTER SLOTS` of a node at `host`: each range with its master and all of its nodes. What
/// can't be read is left out.
fn read(answer: &Value, host: &str) -> Vec<(Range, Vec<Address>)> {
    let Value::Array(ranges) = answer else { return Vec::new() };
    let range = |range: &Value| {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), nodes @ ..] = &range[..] else { return None };
        let nodes: Vec<Address> = nodes.iter().filter_map(|node| address(node, host)).collect();
        let master = nodes.first()?.clone();
        Some((Range { first: u16::try_from(*first).ok()?, last: u16::try_from(*last).ok()?, master }, nodes))
    };
    ranges.iter().filter_map(range).collect()
}

fn address(node: &Value, host: &str) -> Option<Address> {
    let Value::Array(node) = node else { return None };
    let [name, Value::Int(port), ..] = &node[..] else { return None };
    let name: Option<String> = redis::from_redis_value(name.clone()).ok();
    // A node that does not know how it is called is where it was asked.
    let name = name.filter(|name| !name.is_empty() && name != "?").unwrap_or_else(|| host.to_owned());
    Some((name, u16::try_from(*port).ok()?))
}

/// The node that a redirection names, said by a node at `host`.
pub(crate) fn redirected(to: &str, host: &str) -> Option<Address> {
    let (name, port) = to.rsplit_once(':')?;
    let name = if name.is_empty() || name == "?" { host } else { name };
    Some((name.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Value {
        redis::parse_redis_value(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_map_is_read() {
        let map = "*2\r\n*4\r\n:0\r\n:5460\r\n*4\r\n$8\r\n10.0.0.1\r\n:6379\r\n$1\r\na\r\n*0\r\n*3\r\n$0\r\n\r\n:6380\r\n$1\r\nb\r\n*3\r\n:5461\r\n:16383\r\n*2\r\n$-1\r\n:6381\r\n";
        let read = read(&said(map), "me");
        let address = |host: &str, port| (host.to_owned(), port);
        let [(first, nodes), (second, _)] = &read[..] else { panic!("{read:?}") };
        assert_eq!(first, &Range { first: 0, last: 5460, master: address("10.0.0.1", 6379) });
        assert_eq!(nodes, &[address("10.0.0.1", 6379), address("me", 6380)]);
        assert_eq!(second.master, address("me", 6381));
        let mut state = State::default();
        state.heard(read);
        assert_eq!(state.owner(5460), Some(address("10.0.0.1", 6379)));
        assert_eq!(state.owner(5461), Some(address("me", 6381)));
        assert_eq!((state.owner(16_384), state.known.len()), (None, 3));
    }

    #[test]
    fn what_is_no_map_is_none() {
        for text in [
            "$2\r\nOK\r\n",
            "*1\r\n*2\r\n:1\r\n:2\r\n",
            "*1\r\n*3\r\n:1\r\n:70000\r\n*2\r\n$1\r\na\r\n:1\r\n",
        ] {
            assert_eq!(read(&said(text), "me"), []);
        }
    }

    #[test]
    fn redirections_name_nodes() {
        let address = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(redirected("10.0.0.1:6381", "me"), address("10.0.0.1", 6381));
        assert_eq!(redirected("::1:6381", "me"), address("::1", 6381));
        assert_eq!(redirected(":6381", "me"), address("me", 6381));
        assert_eq!(redirected("10.0.0.1", "me"), None);
    }
}
