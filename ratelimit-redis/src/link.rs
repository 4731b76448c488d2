//! Where the connection stands, and how one is made.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use redis::Value;
use smallvec::smallvec;
use tokio::time::Sleep;

use crate::connection::{Line, ScriptCall};
use crate::dispatch::Settings;
use crate::error::{Remedy, Trouble};
use crate::script::Script;
use crate::topology::CONNECT;

/// Where the connection stands.
pub(crate) enum Link {
    Up(Line),
    Connecting(BoxFuture<'static, Result<Line, Trouble>>),
    Pausing(Pin<Box<Sleep>>),
}

/// Connects, and asks something that has to be written, within the deadline: a server that answers but can't
/// be written to is of no use.
pub(crate) fn connect(
    settings: &Settings,
    census: &Arc<Script>,
) -> BoxFuture<'static, Result<Line, Trouble>> {
    let (topology, census, deadline) = (settings.topology.clone(), Arc::clone(census), settings.deadline);
    let slot = settings.slot;
    let call = census_call(settings);
    Box::pin(async move {
        let opened = tokio::time::timeout(CONNECT, topology.open(slot, deadline)).await;
        let mut line = opened.map_err(|_| Trouble::timeout())?.map_err(Trouble::of)?;
        match line.run(&census, &call, deadline).await {
            Ok(reply) => replicas_of(&reply).map(|_| line).ok_or_else(Trouble::garbled),
            // It would have answered, were its keys not on their way to another node.
            Err(trouble) if trouble.remedy == Remedy::Again => Ok(line),
            Err(trouble) => {
                line.discard();
                Err(trouble)
            }
        }
    })
}

pub(crate) fn census_call(settings: &Settings) -> ScriptCall {
    let members = settings.names.single("members");
    let arguments =
        smallvec![settings.replica.to_vec(), b"5000".to_vec(), fastrand::u64(..).to_le_bytes().to_vec()];
    let (dataset, notes) = (settings.names.single("dataset"), settings.names.single("notices"));
    let keys = [&members[..], &dataset, &notes].concat();
    ScriptCall { key_length: members.len(), keys, arguments, is_patient: true }
}

/// The version of the notes, and the store's time in milliseconds.
pub(crate) fn notes_of(reply: &Value) -> Option<(Option<&[u8]>, u64)> {
    let Value::Array(parts) = reply else { return None };
    let time = match parts.get(1)? {
        Value::BulkString(time) => std::str::from_utf8(time).ok()?.parse().ok()?,
        _ => return None,
    };
    match parts.get(3) {
        Some(Value::BulkString(version)) => Some((Some(version), time)),
        _ => Some((None, time)),
    }
}

/// The name that the store's data has: another one when it was lost.
pub(crate) fn dataset_of(reply: &Value) -> Option<&[u8]> {
    match reply {
        Value::Array(numbers) => match numbers.get(2)? {
            Value::BulkString(name) => Some(name),
            _ => None,
        },
        _ => None,
    }
}

pub(crate) fn replicas_of(reply: &Value) -> Option<u32> {
    match reply {
        Value::Array(numbers) => match numbers.first()? {
            Value::Int(number) => u32::try_from(*number).ok(),
            _ => None,
        },
        _ => None,
    }
}

/// Ready when the attempt to connect is over, or, with `None`, when it is time for the next one.
pub(crate) async fn next_step(link: &mut Link) -> Option<Result<Line, Trouble>> {
    match link {
        Link::Connecting(attempt) => Some(attempt.await),
        Link::Pausing(pause) => {
            pause.as_mut().await;
            None
        }
        Link::Up(_) => std::future::pending().await,
    }
}

pub(crate) async fn elapsed(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.as_mut().await,
        None => std::future::pending().await,
    }
}
