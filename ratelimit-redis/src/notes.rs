//! What replicas tell each other besides counters: [`Note`]s, which last, and which keys begin anew.
//!
//! A note is a few bytes under a name, with a stamp by the store's clock; of two the later one counts. Every replica
//! has a copy of all notes and asks with its sign of life, some twice a second, whether there is another version. So
//! all know within a second, and go on with what they know while the store is away. A store that lost its notes can
//! be told again by anybody ([`RedisStore::merge_notes`]).
//!
//! That a key begins anew is news for a minute. Who hears of it drops what it knows and holds of the key: denials, and
//! leases. Who may have missed some drops everything.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ratelimit_core::{Key, Limit, Nanos, StoreError, StoreErrorKind};
use redis::Value;
use smallvec::smallvec;
use tokio::sync::{mpsc, oneshot, watch};

use crate::connection::ScriptCall;
use crate::error::Trouble;
use crate::keys::{Digest, Names};
use crate::partition::gone;
use crate::shared::Shared;
use crate::store::RedisStore;

/// How long an operation may take: a thousand decisions' worth of notes may have to travel.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// Operations that may wait.
const QUEUE: usize = 64;
/// Entries of the list of keys that begin anew, and how long it is sure to be there.
const LISTED: (usize, Nanos) = (1000, Nanos::from_secs(50));
/// Digits of a stamp.
const STAMP: usize = 16;

/// Something that all replicas know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is called; not empty.
    pub name: String,
    /// When it was written, in microseconds since the epoch by the store's clock; unique for a name.
    pub stamp: u64,
    /// What it says; empty if it was taken back.
    pub text: Vec<u8>,
}

/// All notes, as the store had them when it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Board {
    /// In no order.
    pub notes: Vec<Note>,
    heard: bool,
}

impl Board {
    /// Whether the store was asked at all yet.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.heard
    }
}

/// What is dropped because of news.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Forgotten<'a> {
    /// That key of the limit with that id.
    Key {
        limit: u64,
        key: Key<'a>,
        digest: Digest,
    },
    All,
}

type Listener = Box<dyn Fn(Forgotten<'_>) + Send + Sync>;

/// What a process knows of the notes.
pub(crate) struct Known {
    board: watch::Sender<Arc<Board>>,
    listeners: Mutex<Vec<Listener>>,
    /// The store's time, and ours then, in nanoseconds; 0: not known.
    time: (AtomicU64, AtomicU64),
}

impl Known {
    pub(crate) fn new() -> Self {
        Self { board: watch::Sender::new(Arc::default()), listeners: Mutex::default(), time: <_>::default() }
    }

    /// Calls `tell` whenever something is to be forgotten.
    pub(crate) fn listen(&self, tell: impl Fn(Forgotten<'_>) + Send + Sync + 'static) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(tell));
    }

    fn forget(&self, what: Forgotten<'_>) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|tell| tell(what));
    }

    /// The store said what time it is, in milliseconds.
    pub(crate) fn heard_time(&self, millis: u64, now: Nanos) {
        // Read one without the other, they are off by less than the time between two answers.
        self.time.1.store(now.get(), Ordering::Relaxed);
        self.time.0.store(millis.saturating_mul(1_000_000), Ordering::Relaxed);
    }

    fn time(&self, now: Nanos) -> Option<Nanos> {
        let (said, at) = (self.time.0.load(Ordering::Relaxed), self.time.1.load(Ordering::Relaxed));
        let passed = now.saturating_sub(Nanos::new(at));
        (said > 0).then(|| Nanos::new(said).saturating_add(passed))
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("notes", &self.board.borrow().notes.len()).finish_non_exhaustive()
    }
}

/// An operation that somebody waits for.
pub(crate) struct Operation {
    pub(crate) arguments: smallvec::SmallVec<[Vec<u8>; 3]>,
    pub(crate) answer: oneshot::Sender<Result<Value, Trouble>>,
}

pub(crate) fn queue() -> (mpsc::Sender<Operation>, mpsc::Receiver<Operation>) {
    mpsc::channel(QUEUE)
}

/// A call of the script.
pub(crate) fn call(names: &Names, arguments: smallvec::SmallVec<[Vec<u8>; 3]>) -> ScriptCall {
    let notes = names.single("notices");
    let keys = [&notes[..], &names.single("changes")].concat();
    ScriptCall { key_length: notes.len(), keys, arguments, is_patient: true }
}

/// A call that reads everything.
pub(crate) fn reading(names: &Names) -> ScriptCall {
    call(names, smallvec![b"read".to_vec(), Vec::new()])
}

/// What the task that owns the connection knows of versions.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    version: Option<Vec<u8>>,
    /// When the version was last known to be the store's.
    checked: Option<Nanos>,
    /// The stamp of the last key that begins anew.
    reset: u64,
    reading: bool,
}

impl Reader {
    /// The store says which version it has; whether everything has to be read.
    pub(crate) fn heard(&mut self, version: Option<&[u8]>, now: Nanos) -> bool {
        if self.reading {
            return false;
        }
        if self.checked.is_some() && self.version.as_deref() == version {
            self.checked = Some(now);
            return false;
        }
        self.reading = true;
        true
    }

    /// What came of reading.
    pub(crate) fn read(&mut self, reply: Result<Value, Trouble>, shared: &Shared, now: Nanos) {
        self.reading = false;
        let Ok(reply) = reply else { return };
        let Some(Read { version, notes, resets }) = Read::of(&reply) else {
            tracing::warn!("what replicas tell each other can't be read: somebody else writes there");
            return;
        };
        let last = resets.iter().map(|(stamp, _)| *stamp).max().unwrap_or(0);
        if let Some(checked) = self.checked {
            let lapsed = now.saturating_sub(checked) >= LISTED.1;
            let cut = resets.len() >= LISTED.0 && resets.iter().all(|(stamp, _)| *stamp > self.reset);
            if lapsed || cut {
                shared.denied.forget_all();
                shared.known.forget(Forgotten::All);
            } else {
                for (_, what) in resets.iter().filter(|(stamp, _)| *stamp > self.reset) {
                    forget(what, shared);
                }
            }
        }
        self.reset = self.reset.max(last);
        self.version = version;
        self.checked = Some(now);
        let board = Board { notes, heard: true };
        shared.known.board.send_if_modified(|known| {
            let news = **known != board;
            if news {
                *known = Arc::new(board);
            }
            news
        });
    }
}

fn forget(what: &[u8], shared: &Shared) {
    let Some((digest, rest)) = what.split_first_chunk::<16>() else { return };
    let Some((limit, key)) = rest.split_first_chunk::<8>() else { return };
    let (digest, limit) = (Digest::from_bytes(*digest), u64::from_le_bytes(*limit));
    shared.denied.forget(&digest);
    shared.known.forget(Forgotten::Key { limit, key: Key::from_canonical(key), digest });
}

/// What tells a key apart, for [`forget`].
fn told(limit: &Limit, key: Key<'_>) -> Vec<u8> {
    [&Digest::of(limit, key).bytes()[..], &limit.id().get().to_le_bytes(), &key.to_vec()].concat()
}

/// A reply to `read`.
struct Read {
    version: Option<Vec<u8>>,
    notes: Vec<Note>,
    resets: Vec<(u64, Vec<u8>)>,
}

impl Read {
    fn of(reply: &Value) -> Option<Self> {
        let Value::Array(parts) = reply else { return None };
        let [_, version, Value::Array(fields), Value::Array(list)] = &**parts else { return None };
        let version = match version {
            Value::BulkString(version) => Some(version.clone()),
            Value::Nil => None,
            _ => return None,
        };
        let mut notes = Vec::new();
        for field in fields.chunks_exact(2) {
            let [Value::BulkString(name), Value::BulkString(value)] = field else { return None };
            if !name.is_empty() {
                let (stamp, text) = stamped(value)?;
                notes.push(Note { name: String::from_utf8(name.clone()).ok()?, stamp, text });
            }
        }
        let reset = |entry: &Value| match entry {
            Value::BulkString(value) => stamped(value),
            _ => None,
        };
        Some(Self { version, notes, resets: list.iter().map(reset).collect::<Option<_>>()? })
    }
}

fn stamped(value: &[u8]) -> Option<(u64, Vec<u8>)> {
    let (stamp, rest) = value.split_at_checked(STAMP)?;
    Some((std::str::from_utf8(stamp).ok()?.parse().ok()?, rest.to_vec()))
}

fn digits(stamp: u64) -> Vec<u8> {
    format!("{stamp:016}").into_bytes()
}

fn version() -> Vec<u8> {
    fastrand::u64(..).to_le_bytes().to_vec()
}

impl RedisStore {
    /// All notes, followed as they change. The first one was [heard](Board::is_heard) right after the store was
    /// reached.
    #[must_use]
    pub fn notes(&self) -> watch::Receiver<Arc<Board>> {
        self.shared().known.board.subscribe()
    }

    /// Writes a note, or takes one back where its text is empty. Its stamp is what the store makes it, and at least
    /// that of `note`; it is returned. With `instead_of`, only instead of the note of that stamp: `None` if there is
    /// another one.
    ///
    /// # Errors
    /// When the store can't answer. It may have been written all the same.
    pub async fn write_note(&self, note: &Note, instead_of: Option<u64>) -> Result<Option<u64>, StoreError> {
        let arguments = smallvec![
            b"write".to_vec(),
            version(),
            note.name.clone().into_bytes(),
            note.text.clone(),
            digits(note.stamp),
            instead_of.map(digits).unwrap_or_default(),
        ];
        match self.operate(arguments).await? {
            Value::Nil => Ok(None),
            Value::BulkString(stamp) => {
                let stamp = std::str::from_utf8(&stamp).ok().and_then(|text| text.parse().ok());
                stamp.map(Some).ok_or_else(|| Trouble::garbled().to_error())
            }
            _ => Err(Trouble::garbled().to_error()),
        }
    }

    /// Tells the store of notes that it may not know, as it lost its data: those that are later than what it has.
    ///
    /// # Errors
    /// When the store can't answer.
    pub async fn merge_notes(&self, notes: &[Note]) -> Result<(), StoreError> {
        // Not so many at once that others would have to wait.
        for some in notes.chunks(500) {
            let mut arguments = smallvec![b"merge".to_vec(), version()];
            for Note { name, stamp, text } in some {
                arguments.push(name.clone().into_bytes());
                arguments.push([&digits(*stamp)[..], text].concat());
            }
            self.operate(arguments).await?;
        }
        Ok(())
    }

    /// Tells all replicas that a key was reset, so that they drop what they know and hold of it.
    ///
    /// # Errors
    /// When the store can't answer.
    pub async fn tell_reset(&self, limit: &Limit, key: Key<'_>) -> Result<(), StoreError> {
        let arguments = smallvec![b"reset".to_vec(), version(), told(limit, key)];
        self.operate(arguments).await.map(drop)
    }

    /// The time since the Unix epoch by the store's clock, as far as is known; within a millisecond and a round trip.
    #[must_use]
    pub fn time(&self) -> Option<Nanos> {
        self.shared().known.time(self.shared().now())
    }

    async fn operate(&self, arguments: smallvec::SmallVec<[Vec<u8>; 3]>) -> Result<Value, StoreError> {
        if !self.shared().is_up() {
            return Err(gone());
        }
        let (answer, answered) = oneshot::channel();
        let full = |_| StoreError::new(StoreErrorKind::Overloaded, "the queue is full");
        self.operations().try_send(Operation { arguments, answer }).map_err(full)?;
        let said = answered.await.unwrap_or_else(|_| Err(Trouble::timeout()));
        said.map_err(|trouble| trouble.to_error())
    }
}
