//! The part of steering that depends on whose the book is: this process's, or all replicas'.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ratelimit_core::{Key, Limit, StoreError, StoreErrorKind};
use ratelimit_redis::{Board, Note, RedisStore};
use tokio::sync::{MutexGuard, watch};

use super::book::is_old;
use super::{Book, Gives, Id, Record, Refused, Steering};

/// How long a proxy that starts waits to hear what the others know.
const FIRST: Duration = Duration::from_secs(2);

/// What replicas read.
pub(super) type Heard = watch::Receiver<Arc<Board>>;

/// Ready when there is something new to be read.
pub(super) async fn changed(board: &mut Option<Heard>) {
    let told = match board {
        Some(board) => board.changed().await.is_ok(),
        None => false,
    };
    if !told {
        std::future::pending().await
    }
}

fn note(id: &Id, record: &Record) -> Note {
    let text = record.gives.as_ref().map(|gives| serde_json::to_vec(gives).unwrap_or_default());
    Note { name: name(id), stamp: record.stamp, text: text.unwrap_or_default() }
}

/// What a record is called: nobody else's name can be the same, as no name of a limit has a slash.
fn name(id: &Id) -> String {
    format!("{}/{}", id.limit, id.key)
}

fn record(note: &Note) -> Option<(Id, Record)> {
    let (limit, key) = note.name.split_once('/')?;
    let gives = match &*note.text {
        [] => None,
        text => Some(serde_json::from_slice::<Gives>(text).ok()?),
    };
    let id = Id { limit: limit.to_owned(), key: key.to_owned() };
    Some((id, Record { gives, stamp: note.stamp }))
}

impl Steering {
    /// The store that all replicas share.
    fn store(&self) -> Option<&RedisStore> {
        self.shared.store.shared()
    }

    pub(super) fn is_shared(&self) -> bool {
        self.store().is_some()
    }

    /// What is heard of the others.
    pub(super) fn board(&self) -> Option<Heard> {
        self.store().map(RedisStore::notes)
    }

    /// The book to begin with: what was kept here, and what the others know.
    pub(super) async fn first(&self, kept: Book) -> Book {
        if let Some(mut board) = self.board().filter(|_| self.shared.store.is_up()) {
            let heard = board.wait_for(|board| board.is_heard());
            let _ = tokio::time::timeout(FIRST, heard).await;
            return self.merged(kept, &board.borrow().clone()).0.at(self.now());
        }
        kept.at(self.now())
    }

    /// Takes in what the others know, and tells them what the store does not know.
    pub(super) async fn heard(&self, board: Option<&Heard>) {
        let Some(board) = board.map(|board| board.borrow().clone()) else { return };
        let changing = self.changing.lock().await;
        let (book, unknown) = self.merged(Book::clone(&self.book()), &board);
        if let (false, Some(store)) = (unknown.is_empty(), self.store()) {
            tracing::warn!(
                overrides = unknown.len(),
                "the store did not know of overrides, and is told again"
            );
            if let Err(error) = store.merge_notes(&unknown).await {
                tracing::warn!(%error, "it could not be told");
            }
        }
        if let Err(refused) = self.put(&changing, book).await {
            tracing::warn!(%refused, "overrides of other replicas");
        }
    }

    /// A book with what the others know, and what they do not know of it.
    fn merged(&self, mut book: Book, board: &Board) -> (Book, Vec<Note>) {
        if !board.is_heard() {
            return (book, Vec::new());
        }
        let now = self.now();
        for (id, record) in board.notes.iter().filter_map(record) {
            book.take(id, record);
        }
        let there: HashMap<&str, u64> = board.notes.iter().map(|note| (&*note.name, note.stamp)).collect();
        let unknown = book.records().filter(|(id, record)| {
            let old = record.gives.is_none() && is_old(record.stamp, now);
            !old && there.get(&*name(id)).is_none_or(|stamp| *stamp < record.stamp)
        });
        let unknown = unknown.map(|(id, record)| note(id, record)).collect();
        (book, unknown)
    }

    /// Changes are made in the store, or not at all.
    pub(super) fn needs_store(&self) -> Result<(), Refused> {
        match self.shared.store.is_up() {
            true => Ok(()),
            false => {
                let away = StoreError::new(StoreErrorKind::Unavailable, "the store can't be reached");
                Err(Refused::Store(away))
            }
        }
    }

    /// Writes what a key gets, and puts it in force.
    pub(super) async fn write(
        &self,
        changing: &MutexGuard<'_, ()>,
        id: Id,
        gives: Option<Gives>,
    ) -> Result<(), Refused> {
        let mut book = Book::clone(&self.book());
        let mut record = Record { gives, stamp: book.stamp(&id, self.now()) };
        match self.store() {
            Some(store) => {
                self.needs_store()?;
                let written = store.write_note(&note(&id, &record), None).await.map_err(Refused::Store)?;
                record.stamp = written.unwrap_or(record.stamp);
                book.take(id, record);
            }
            // Nobody else could bring it back.
            None if record.gives.is_none() => book.drop(&id),
            None => {
                book.take(id, record);
            }
        }
        self.put(changing, book).await
    }

    /// Ends an override whose time has come. Of all replicas one is told so.
    pub(super) async fn end(
        &self,
        changing: &MutexGuard<'_, ()>,
        id: &Id,
        stamp: u64,
    ) -> Result<bool, Refused> {
        let mut book = Book::clone(&self.book());
        let Some(store) = self.store() else {
            book.drop(id);
            self.put(changing, book).await?;
            return Ok(true);
        };
        self.needs_store()?;
        let mut ended = Record { gives: None, stamp };
        match store.write_note(&note(id, &ended), Some(stamp)).await.map_err(Refused::Store)? {
            Some(stamp) => {
                ended.stamp = stamp;
                book.take(id.clone(), ended);
                self.put(changing, book).await?;
                Ok(true)
            }
            // Another one was quicker; what it wrote is heard soon.
            None => Ok(false),
        }
    }

    /// Tells the others that a key begins anew, so that what they hold and know of it is dropped.
    pub(super) async fn tell_reset(&self, limit: &Limit, key: Key<'_>) -> Result<(), Refused> {
        match self.store() {
            Some(store) => store.tell_reset(limit, key).await.map_err(Refused::Store),
            None => Ok(()),
        }
    }
}
