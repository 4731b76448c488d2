//! A partition's way to its node in a Cluster. Slots move from node to node, one key after the other, while
//! decisions are made; a node that does not have the keys says who has, and has done nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Cmd, RedisError, RedisResult, Value};

use crate::connection::ScriptCall;
use crate::error::{Remedy, Trouble};
use crate::nodes::{Node, Nodes, redirected};
use crate::script::Script;
use crate::topology::Topology;

/// Times that a call is sent elsewhere.
const REDIRECTIONS: usize = 5;
/// Pause before keys are asked for again of which some have moved and some have not.
const MOVING: Duration = Duration::from_millis(5);

/// A partition's line. Clones share what they learn.
#[derive(Clone)]
pub(crate) struct ClusterLine {
    topology: Topology,
    nodes: Arc<Nodes>,
    deadline: Duration,
    home: Arc<Mutex<Node>>,
}

impl ClusterLine {
    pub(crate) async fn open(slot: u16, topology: &Topology, deadline: Duration) -> RedisResult<Self> {
        let nodes = Arc::clone(&topology.cluster);
        let home = nodes.serving(slot, topology, deadline).await?;
        Ok(Self { topology: topology.clone(), nodes, deadline, home: Arc::new(Mutex::new(home)) })
    }

    /// Runs a script where its keys are.
    pub(crate) async fn run(&self, script: &Script, call: &ScriptCall) -> Result<Value, Trouble> {
        let (mut node, mut is_asked, mut by_text) = (self.home(), false, false);
        let mut redirections = 0;
        loop {
            let command = match by_text {
                false => call.command("EVALSHA", script.digest()),
                true => call.command("EVAL", script.text()),
            };
            let answer = if is_asked {
                ask(&mut node, &command).await
            } else {
                command.query_async(&mut node.connection).await
            };
            let error = match answer {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let to = error.redirect_node().and_then(|(to, _)| redirected(to, &node.address.0));
            let trouble = Trouble::of(error);
            match (trouble.remedy, to) {
                (Remedy::Load, _) if !by_text => by_text = true,
                (Remedy::Follow, Some(to)) if redirections < REDIRECTIONS => {
                    redirections += 1;
                    is_asked = trouble.code == "ASK";
                    let next = self.nodes.node(to, &self.topology, self.deadline).await;
                    node = next.map_err(Trouble::of)?;
                    if !is_asked {
                        self.set_home(node.clone());
                    }
                }
                (Remedy::Again, _) if call.is_patient => {
                    tokio::time::sleep(MOVING).await;
                    (node, is_asked) = (self.home(), false);
                }
                _ => return Err(trouble),
            }
        }
    }

    pub(crate) async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        command.query_async(&mut self.home().connection).await
    }

    pub(crate) fn discard(&self) {
        self.nodes.discard(&self.home());
    }

    fn home(&self) -> Node {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_home(&self, node: Node) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = node;
    }
}

/// Sends a command about keys that are on their way to a node. Both travel together: whatever came between them
/// would be taken for the command that was meant.
async fn ask(node: &mut Node, command: &Cmd) -> RedisResult<Value> {
    let mut both = redis::pipe();
    both.cmd("ASKING").add_command(command.clone());
    let mut answers = node.connection.send_packed_commands(&both, 0, 2).await?;
    let answer = answers.pop().ok_or_else(|| {
        RedisError::from((redis::ErrorKind::UnexpectedReturnType, "no answer to what was asked"))
    })?;
    answer.extract_error()
}
