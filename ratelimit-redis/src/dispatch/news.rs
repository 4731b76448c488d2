//! What replicas tell each other, over the same connection and beside the decisions.

use std::sync::Arc;

use redis::Value;

use super::{Dispatcher, Done};
use crate::error::Trouble;
use crate::link::{Link, notes_of};
use crate::notes::{self, Operation};

impl Dispatcher {
    /// The store has said what time it is, and which version of the notes it has.
    pub(super) fn heard_of_notes(&mut self, reply: &Value) {
        let Some((version, time)) = notes_of(reply) else { return };
        let now = self.now();
        self.shared.known.heard_time(time, now);
        let Link::Up(line) = &self.link else { return };
        if self.reader.heard(version, now) {
            let (mut line, script) = (line.clone(), Arc::clone(&self.notes));
            let call = notes::reading(&self.settings.names);
            self.under_way
                .push(Box::pin(async move { Done::Notes(line.run(&script, &call, notes::PATIENCE).await) }));
        }
    }

    pub(super) fn operate(&mut self, operation: Operation) {
        let Operation { arguments, answer } = operation;
        let Link::Up(line) = &self.link else {
            let _ = answer.send(Err(Trouble::timeout()));
            return;
        };
        let (mut line, script, generation) = (line.clone(), Arc::clone(&self.notes), self.generation);
        let call = notes::call(&self.settings.names, arguments);
        self.under_way.push(Box::pin(async move {
            let reply = line.run(&script, &call, notes::PATIENCE).await;
            Done::Noted(answer, reply, generation)
        }));
    }
}
