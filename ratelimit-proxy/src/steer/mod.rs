//! [`Steering`]: what operators change while the proxy runs: other quotas for single keys, and fresh starts.
//!
//! Overrides live in a [`Book`]. With counters in memory the book is this process's, kept in a file if one is
//! configured. With a shared store it is every replica's: each has a copy, follows what the others change within a
//! second, goes on with what it knows while the store is away, and gives the store back what that lost. A change is
//! made in the store first, or not at all.
//!
//! What a key has used stays used when its quota changes: whoever changes it rescales what is counted, once.

mod book;
mod by;
mod file;
mod refused;
mod shared;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ratelimit_core::algorithm::{Op, Program};
use ratelimit_core::store::{Charge, Verdict};
use ratelimit_core::time::Clock as _;
use ratelimit_core::{Key, KeyBuf};
use tokio::sync::{Mutex, MutexGuard, Notify};

pub(crate) use self::book::{Book, Gives, Id, MOST, Record};
pub(crate) use self::by::By;
use self::file::BookFile;
pub(crate) use self::refused::Refused;
use crate::config::{Config, Cost, Quota, nearest};
use crate::policy::{InForce, KeyFault, Rule, WrittenKey};
use crate::rules::Rules;
use crate::state::Shared;
use crate::supervise;

/// How often the clocks are looked at: they may be set.
const LOOK: Duration = Duration::from_secs(1);

/// A key of a limit in force.
pub(crate) struct Steered {
    rules: Arc<Rules>,
    rule: usize,
    pub(crate) key: WrittenKey,
}

impl Steered {
    /// The limit.
    pub(crate) fn rule(&self) -> Option<&Rule> {
        self.rules.policy.rules().get(self.rule)
    }

    /// Key and limit as a record has them.
    fn id(&self) -> Id {
        let limit = self.rule().map_or("", |rule| rule.limit.name());
        Id { limit: limit.to_owned(), key: self.key.overridden_text().to_owned() }
    }

    /// What the key gets.
    pub(crate) fn in_force(&self) -> Option<InForce> {
        self.rule().map(|rule| rule.in_force(&self.key))
    }
}

/// What operators change of a running proxy.
pub(crate) struct Steering {
    shared: Arc<Shared>,
    file: Option<BookFile>,
    /// Held while something is changed.
    changing: Mutex<()>,
    changed: Notify,
}

impl Steering {
    /// With the overrides that were kept, in force.
    ///
    /// # Errors
    /// When the file that keeps them is broken; the text names it.
    pub(crate) async fn open(shared: &Arc<Shared>, config: &Config) -> io::Result<Self> {
        let file = config.operators.overrides_file.as_deref().map(BookFile::at);
        let steering =
            Self { shared: Arc::clone(shared), file, changing: Mutex::default(), changed: Notify::new() };
        let kept = steering.file.as_ref().map_or_else(|| Ok(Book::default()), BookFile::load)?;
        let book = steering.first(kept).await;
        let rules = shared.rules.load();
        for (id, record) in book.records().filter(|(_, record)| record.gives.is_some()) {
            if let Some(why) = misfit(&rules, id, record) {
                tracing::warn!(limit = id.limit, why, "an override that was kept is not in force");
            }
        }
        if book.count() > 0 {
            tracing::info!(overrides = book.count(), "overrides given at run time are in force");
        }
        shared.rules.steer(Arc::new(book));
        Ok(steering)
    }

    /// The overrides that are in force.
    pub(crate) fn book(&self) -> Arc<Book> {
        self.shared.rules.book()
    }

    /// What a key was given at run time.
    pub(crate) fn given(&self, steered: &Steered) -> Option<Gives> {
        self.book().gives(&steered.id()).cloned()
    }

    /// A limit by its name.
    pub(crate) fn limit(&self, name: &str) -> Result<(Arc<Rules>, usize), Refused> {
        let rules = self.shared.rules.load();
        let mut names = rules.policy.rules().iter().map(|rule| rule.limit.name());
        match names.position(|known| known == name) {
            Some(number) => Ok((rules, number)),
            None => {
                let names = rules.policy.rules().iter().map(|rule| rule.limit.name());
                let nearest = nearest(name, names).map(str::to_owned);
                Err(Refused::Limit { name: name.to_owned(), nearest })
            }
        }
    }

    /// A key of a limit, by the bytes that stores know it by.
    pub(crate) fn known(&self, limit: &str, key: &KeyBuf) -> Option<Steered> {
        let (rules, rule) = self.limit(limit).ok()?;
        let key = rules.policy.rules().get(rule)?.key_from_bytes(key)?;
        Some(Steered { rules, rule, key })
    }

    /// A key of a limit that is counted, so that there is something left of it.
    pub(crate) fn counted(&self, limit: &str, text: &str) -> Result<Steered, Refused> {
        let steered = self.key(limit, text)?;
        if steered.key.is_of_all_domains() { Err(Refused::Key(KeyFault::Domain)) } else { Ok(steered) }
    }

    /// A key of a limit.
    pub(crate) fn key(&self, limit: &str, text: &str) -> Result<Steered, Refused> {
        let (rules, rule) = self.limit(limit)?;
        let found = rules.policy.rules().get(rule).map(|rule| rule.key_from_text(text));
        match found {
            Some(Ok(key)) => Ok(Steered { rules, rule, key }),
            Some(Err(fault)) => Err(Refused::Key(fault)),
            None => Err(Refused::Nothing),
        }
    }

    /// What a key has left; `None` if nothing counts for it, because it may do anything, or nothing.
    pub(crate) async fn left(&self, steered: &Steered) -> Result<Option<Verdict>, Refused> {
        let Some(InForce { quota: Quota::Limit(limit), .. }) = steered.in_force() else { return Ok(None) };
        if steered.key.is_of_all_domains() {
            return Ok(None);
        }
        let charge = Charge { limit: &limit, key: steered.key.key(), op: Op::Peek(1) };
        self.shared.store.ask(charge).await.map(Some).map_err(Refused::Store)
    }

    /// Gives a key a fresh start.
    pub(crate) async fn reset(&self, steered: &Steered, by: By) -> Result<(), Refused> {
        let Some(rule) = steered.rule() else { return Err(Refused::Nothing) };
        let _changing = self.changing.lock().await;
        // A store that is away would let this replica begin anew and none of the others.
        self.needs_store()?;
        let limit = match steered.in_force().map(|in_force| in_force.quota) {
            Some(Quota::Limit(limit)) => limit,
            _ => rule.limit.clone(),
        };
        let key = steered.key.key();
        let before = self.shared.store.ask(Charge { limit: &limit, key, op: Op::Peek(1) }).await;
        self.shared.store.ask(Charge { limit: &limit, key, op: Op::Reset }).await.map_err(Refused::Store)?;
        self.tell_reset(&limit, key).await?;
        let left = |verdict: &Verdict| verdict.outcomes.first().map(|outcome| outcome.remaining());
        self.audit(by, "fresh start", steered, &Told(before.ok().as_ref().and_then(left), "left"), &"full");
        Ok(())
    }

    /// Gives a key another quota.
    pub(crate) async fn give(&self, steered: &Steered, gives: Gives, by: By) -> Result<(), Refused> {
        let (Some(rule), Some(before)) = (steered.rule(), steered.in_force()) else {
            return Err(Refused::Nothing);
        };
        let quota = gives.quota(&rule.limit).map_err(|unfit| Refused::Unfit(unfit.0))?;
        let cost = steered.rules.limits.get(steered.rule).map(|config| (&config.cost, config.overdraft));
        if let (Quota::Limit(limit), Some((Cost::Fixed(cost), false))) = (&quota, cost)
            && *cost > limit.capacity()
        {
            let most = limit.capacity();
            let what = format!("a cost of {cost} could never be admitted: it would hold {most} at most");
            return Err(Refused::Unfit(what));
        }
        if !gives.holds(self.now()) {
            return Err(Refused::Unfit("until is past".to_owned()));
        }
        let changing = self.changing.lock().await;
        let (book, id) = (self.book(), steered.id());
        if book.gives(&id).is_none() && book.count() >= MOST {
            return Err(Refused::Full);
        }
        let words = gives.to_string();
        self.write(&changing, id, Some(gives)).await?;
        self.rescale(&before.quota, &quota, steered.key.key()).await;
        self.audit(by, "override", steered, &before.words, &words);
        Ok(())
    }

    /// Takes a key's override back.
    pub(crate) async fn take_back(&self, steered: &Steered, by: By) -> Result<(), Refused> {
        let changing = self.changing.lock().await;
        let id = steered.id();
        let Some(gave) = self.book().gives(&id).map(ToString::to_string) else {
            return Err(Refused::Nothing);
        };
        let before = steered.in_force();
        self.write(&changing, id, None).await?;
        let after = self.shared.rules.load();
        let after = after.policy.rules().get(steered.rule).map(|rule| rule.in_force(&steered.key));
        if let (Some(before), Some(after)) = (&before, &after) {
            self.rescale(&before.quota, &after.quota, steered.key.key()).await;
        }
        self.audit(by, "override taken back", steered, &gave, &after.map_or(String::new(), |now| now.words));
        Ok(())
    }

    /// Follows what other replicas change, and ends overrides when their time has come, until dropped.
    pub(crate) async fn follow(&self) -> Infallible {
        supervise::keep("overrides", &self.shared.metrics, || self.keep_up()).await
    }

    async fn keep_up(&self) -> Infallible {
        let mut board = self.board();
        // What was kept here, and the store does not know.
        self.heard(board.as_ref()).await;
        loop {
            let next = self.book().next_end().map(|end| end.duration_since(self.now()));
            let next = next.and_then(|left| Duration::try_from(left).ok()).unwrap_or(LOOK).min(LOOK);
            tokio::select! {
                () = shared::changed(&mut board) => self.heard(board.as_ref()).await,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(next) => {}
            }
            self.end_due().await;
        }
    }

    /// Ends the overrides whose time has come.
    async fn end_due(&self) {
        let changing = self.changing.lock().await;
        let now = self.now();
        let book = Book::clone(&self.book()).at(now);
        let due = book.over();
        if due.is_empty() {
            return;
        }
        let before: Vec<_> = due.iter().map(|(id, _)| self.quota_of(id)).collect();
        // From here on they are not in force, whatever becomes of the rest.
        self.shared.rules.steer(Arc::new(book));
        for ((id, record), before) in due.into_iter().zip(before) {
            match self.end(&changing, &id, record.stamp).await {
                Ok(true) => {
                    tracing::info!(limit = id.limit, "an override has ended");
                    if let (Some((_, before)), Some((key, after))) = (before, self.quota_of(&id)) {
                        self.rescale(&before, &after, key.key()).await;
                    }
                }
                Ok(false) => {}
                // It is tried again.
                Err(refused) => tracing::debug!(%refused, "the end of an override can't be written"),
            }
        }
    }

    /// The key of a record and what it gets.
    fn quota_of(&self, id: &Id) -> Option<(WrittenKey, Quota)> {
        let steered = self.key(&id.limit, &id.key).ok()?;
        let quota = steered.in_force()?.quota;
        Some((steered.key, quota))
    }

    /// Puts a changed book in force, once it is kept.
    async fn put(&self, _changing: &MutexGuard<'_, ()>, mut book: Book) -> Result<(), Refused> {
        book = book.at(self.now());
        book.prune();
        let book = Arc::new(book);
        if let Some(file) = self.file.clone() {
            let kept = Arc::clone(&book);
            let saved = tokio::task::spawn_blocking(move || file.save(&kept)).await;
            match saved.unwrap_or_else(|error| Err(io::Error::other(error))) {
                // What is in the shared store holds all the same.
                Err(error) if self.is_shared() => {
                    tracing::warn!(%error, "overrides can't be kept in their file")
                }
                Err(error) => return Err(Refused::File(error)),
                Ok(()) => {}
            }
        }
        self.shared.rules.steer(book);
        self.changed.notify_one();
        Ok(())
    }

    /// Keeps the share that is used. Where that fails the key keeps its time to full recovery, which costs a burst
    /// at most.
    async fn rescale(&self, from: &Quota, to: &Quota, key: Key<'_>) {
        let (Quota::Limit(from), Quota::Limit(to)) = (from, to) else { return };
        let Program::TokenBucket(bucket) = from.program() else { return };
        let charge = Charge { limit: to, key, op: Op::Rescale(bucket.refill()) };
        if let Err(error) = self.shared.store.ask(charge).await {
            tracing::warn!(limit = to.name(), %error, "what a key has used could not be carried over");
        }
    }

    fn audit(
        &self,
        by: By,
        what: &str,
        steered: &Steered,
        before: &dyn fmt::Display,
        after: &dyn fmt::Display,
    ) {
        let key = steered.rules.log.key(steered.key.key());
        tracing::info!(
            by = by.name(),
            from = %by.peer,
            change = what,
            limit = steered.rule().map_or("-", |rule| rule.limit.name()),
            key = key.as_ref().map(tracing::field::display),
            before = %before,
            after = %after,
            "changed by an operator"
        );
    }

    /// What time it is for all who share the overrides.
    fn now(&self) -> Timestamp {
        let shared = self.shared.store.shared().and_then(ratelimit_redis::RedisStore::time);
        let now = shared.unwrap_or_else(|| self.shared.clock.utc());
        Timestamp::from_nanosecond(now.get().into()).unwrap_or(Timestamp::MAX)
    }
}

/// Why a record is not in force.
fn misfit(rules: &Rules, id: &Id, record: &Record) -> Option<String> {
    let Some(rule) = rules.policy.rule(&id.limit) else { return Some("there is no such limit".to_owned()) };
    if let Err(fault) = rule.key_from_text(&id.key) {
        return Some(fault.to_string());
    }
    record.gives.as_ref()?.quota(&rule.limit).err().map(|unfit| unfit.0)
}

/// A number that may not be known.
struct Told(Option<u32>, &'static str);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, "{number} {}", self.1),
            None => f.write_str("unknown"),
        }
    }
}
