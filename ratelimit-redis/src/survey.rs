//! What a server says of itself that matters to limits: which server it is, and whether it may lose what they
//! count. Asked beside the decisions, after a connection is made; a server that does not say is taken as it is.

use std::collections::HashMap;
use std::time::Duration;

use redis::{Cmd, FromRedisValue};

use crate::connection::Line;

/// What a server said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Changes with every start of the server.
    pub(crate) run_id: Option<String>,
    /// The policy by which it evicts keys that count, when its memory is full.
    pub(crate) evicts: Option<String>,
    /// It has replicas, and writes on when it can reach none of them.
    pub(crate) writes_alone: bool,
}

impl Survey {
    /// Asks; each question within the deadline. The nodes of a Cluster are not asked.
    pub(crate) async fn of(mut line: Line, deadline: Duration) -> Self {
        if matches!(line, Line::Cluster(_)) {
            return Self::default();
        }
        let info = |section| {
            let mut command = redis::cmd("INFO");
            command.arg(section);
            command
        };
        let server: String = ask(&mut line, &info("server"), deadline).await.unwrap_or_default();
        let replication: String = ask(&mut line, &info("replication"), deadline).await.unwrap_or_default();
        let mut settings = HashMap::new();
        for pattern in ["maxmemory*", "min-replicas-to-write"] {
            let mut command = redis::cmd("CONFIG");
            command.arg("GET").arg(pattern);
            // Hosted servers often forbid it.
            let some: Option<HashMap<String, String>> = ask(&mut line, &command, deadline).await;
            settings.extend(some.unwrap_or_default());
        }
        Self::read(&server, &replication, &settings)
    }

    fn read(server: &str, replication: &str, settings: &HashMap<String, String>) -> Self {
        let setting = |name: &str| settings.get(name).map(String::as_str);
        let limited = setting("maxmemory").is_some_and(|bytes| bytes != "0");
        // Every key of ours has an expiry; by `volatile-ttl` those go first that are needed least.
        let policy =
            setting("maxmemory-policy").filter(|policy| !matches!(*policy, "noeviction" | "volatile-ttl"));
        let has_replicas = said(replication, "connected_slaves:").is_some_and(|number| number != "0");
        Self {
            run_id: said(server, "run_id:").map(str::to_owned),
            evicts: policy.filter(|_| limited).map(str::to_owned),
            writes_alone: has_replicas && setting("min-replicas-to-write") == Some("0"),
        }
    }

    /// Tells an operator what may cost a limit its count.
    pub(crate) fn warn(&self) {
        if let Some(policy) = &self.evicts {
            tracing::warn!(
                policy = policy.as_str(),
                "the store evicts keys when its memory is full, and an evicted key is a fresh burst: set \
                 maxmemory-policy to noeviction or volatile-ttl"
            );
        }
        if self.writes_alone {
            tracing::warn!(
                "the store has replicas and min-replicas-to-write is 0: a master that is cut off from them admits \
                 on its own until it is back"
            );
        }
    }
}

async fn ask<T: FromRedisValue>(line: &mut Line, command: &Cmd, deadline: Duration) -> Option<T> {
    let answer = tokio::time::timeout(deadline, line.send(command)).await.ok()?.ok()?;
    redis::from_redis_value(answer).ok()
}

fn said<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}
