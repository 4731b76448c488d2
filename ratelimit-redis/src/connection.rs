//! A connection, and one call of a script over it.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value};
use smallvec::SmallVec;

use crate::error::{Remedy, Trouble};
use crate::redirect::ClusterLine;
use crate::script::Script;

/// A connection that many calls share. Clones share it too.
#[derive(Clone)]
pub(crate) enum Line {
    Single(MultiplexedConnection),
    Cluster(ClusterLine),
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
            match self {
                Self::Single(connection) => run_on(connection, script, call).await,
                Self::Cluster(line) => line.run(script, call).await,
            }
        };
        tokio::time::timeout(deadline, run).await.unwrap_or_else(|_| Err(Trouble::timeout()))
    }

    pub(crate) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Single(connection) => command.query_async(connection).await,
            Self::Cluster(line) => line.send(command).await,
        }
    }

    /// It is of no use any more: nobody is to be given it again.
    pub(crate) fn discard(&self) {
        if let Self::Cluster(line) = self {
            line.discard();
        }
    }
}

async fn run_on(
    connection: &mut MultiplexedConnection,
    script: &Script,
    call: &ScriptCall,
) -> Result<Value, Trouble> {
    let by_digest = call.command("EVALSHA", script.digest());
    match by_digest.query_async(connection).await.map_err(Trouble::of) {
        Err(trouble) if trouble.remedy == Remedy::Load => {
            call.command("EVAL", script.text()).query_async(connection).await.map_err(Trouble::of)
        }
        answer => answer,
    }
}

/// Keys and arguments of one call of a script.
#[derive(Debug, Default)]
pub(crate) struct ScriptCall {
    /// The keys' names one after the other, all of the same length.
    pub(crate) keys: Vec<u8>,
    pub(crate) key_length: usize,
    pub(crate) arguments: SmallVec<[Vec<u8>; 3]>,
    /// Whether it is worth waiting for keys that are just being moved to another node.
    pub(crate) is_patient: bool,
}

impl ScriptCall {
    pub(crate) fn command(&self, name: &str, script: &str) -> Cmd {
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
