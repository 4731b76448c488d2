//! What is done for upstreams in the background, on a thread of its own: servers are asked whether they work, and name
//! servers where they are.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::group::Upstreams;
use super::health::keep_checking;
use super::names::Name;
use super::resolve::keep_resolving;
use super::server::Server;
use crate::state::Shared;
use crate::supervise;
use crate::telemetry::metrics::Metrics;

/// How often the thread looks whether anybody needs it still.
const LOOK: Duration = Duration::from_secs(5);

/// Does so for the rules in force, until nobody else holds `shared`.
///
/// # Errors
/// When there is no thread to be had.
pub(crate) fn watch(shared: &Arc<Shared>) -> io::Result<()> {
    let weak = Arc::downgrade(shared);
    let work = move || Builder::new_current_thread().enable_all().build()?.block_on(follow(&weak));
    supervise::thread("upstreams", &shared.metrics, work).map(drop)
}

async fn follow(shared: &Weak<Shared>) -> io::Result<()> {
    let mut tasks = Tasks::default();
    while let Some(strong) = shared.upgrade() {
        // Asked for first: what changes while it is looked at is a change.
        let changes = strong.rules.changes();
        let changed = changes.notified();
        if !strong.rules.load().upstreams.are_where_they_were() {
            strong.rules.readdress();
        }
        tasks.are_those_of(&strong.rules.load().upstreams, &changes, &strong.metrics);
        drop(strong);
        let _ = timeout(LOOK, changed).await;
    }
    Ok(())
}

/// What is under way: a task for each name, and one for each server that has a health check. They know nothing of each
/// other.
#[derive(Default)]
struct Tasks {
    // A task holds what it is for, so nothing else can have the same address meanwhile.
    names: HashMap<*const Name, Task>,
    checks: HashMap<*const Server, Task>,
}

/// Ends with the value.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Tasks {
    /// Begins those that are missing and ends those that are too many.
    fn are_those_of(&mut self, upstreams: &Upstreams, changes: &Arc<Notify>, metrics: &Arc<Metrics>) {
        let names: HashMap<_, _> = upstreams.names().map(|name| (Arc::as_ptr(name), name)).collect();
        self.names.retain(|name, _| names.contains_key(name));
        for (address, name) in names {
            self.names.entry(address).or_insert_with(|| {
                let (name, changes) = (Arc::clone(name), Arc::clone(changes));
                let work = move || keep_resolving(Arc::clone(&name), Arc::clone(&changes));
                Task(tokio::spawn(supervise::keep("names", metrics, work)))
            });
        }
        let mut checks = HashMap::new();
        for group in upstreams.groups() {
            let Some(check) = &group.check else { continue };
            checks.extend(group.servers.iter().map(|server| (Arc::as_ptr(server), (server, check))));
        }
        self.checks.retain(|server, _| checks.contains_key(server));
        for (address, (server, check)) in checks {
            self.checks.entry(address).or_insert_with(|| {
                let (server, check) = (Arc::clone(server), check.clone());
                let work = move || keep_checking(Arc::clone(&server), check.clone());
                Task(tokio::spawn(supervise::keep("health check", metrics, work)))
            });
        }
    }
}
