//! A connection, and one call of a script over it.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, RedisResult, Value};
use smallvec::SmallVec;

use crate::error::{Remedy, Trouble};
use crate::script::Script;

/// A connection that many calls share. Clones share it too.
#[derive(Clone)]
pub(crate) enum Line {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Line {
    /// Runs a script by its digest, within the deadline whatever happens; a server that does not know it is
    /// given the text, once, with the same call.
    pub(crate) async fn run(
        &mut self,
        script: &Script,
        call: &ScriptCall,
        deadline: Duration,
    ) -> Result<Value, Trouble> {
        let run = async {
            match self.send(&call.command("EVALSHA", script.digest())).await.map_err(Trouble::of) {
                Err(trouble) if trouble.remedy == Remedy::Load => {
                    self.send(&call.command("EVAL", script.text())).await.map_err(Trouble::of)
                }
                answer => answer,
            }
        };
        tokio::time::timeout(deadline, run).await.unwrap_or_else(|_| Err(Trouble::timeout()))
    }

    pub(crate) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Single(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }
}

/// Keys and arguments of one call of a script.
#[derive(Debug, Default)]
pub(crate) struct ScriptCall {
    /// The keys' names one after the other, all of the same length.
    pub(crate) keys: Vec<u8>,
    pub(crate) key_length: usize,
    pub(crate) arguments: SmallVec<[Vec<u8>; 3]>,
}

impl ScriptCall {
    fn command(&self, name: &str, script: &str) -> Cmd {
        let arguments: usize = self.arguments.iter().map(Vec::len).sum();
        let keys = self.keys.chunks_exact(self.key_length.max(1));
        let number = 3 + keys.len() + self.arguments.len();
        let mut command =
            Cmd::with_capacity(number, 64 + script.len() + self.keys.len() + 16 * keys.len() + arguments);
        command.arg(name).arg(script).arg(keys.len());
        keys.for_each(|key| {
            command.arg(key);
        });
        self.arguments.iter().for_each(|argument| {
            command.arg(argument.as_slice());
        });
        command
    }
}
