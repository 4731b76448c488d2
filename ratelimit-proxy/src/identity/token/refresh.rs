//! Keeps keys fresh, on a thread of its own that no request waits for. What was got last stays while the source
//! is away. Requests can ask for a fetch ([`Keys::want`]), but not make one: it comes when the pause since the
//! last one is over, however many asked.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::Uri;
use ring::digest::{SHA256, digest};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::fetch::Fetcher;
use super::keys::{Asked, Key, KeyError, KeySet};
use super::{JwtConfig, KeySource};
use crate::config::read_regular;

/// How often a file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The first pause after a failed fetch; it doubles up to the refresh interval.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The keys in force and what it takes to renew them.
pub(super) struct Keys {
    pub(super) config: JwtConfig,
    current: ArcSwapOption<KeySet>,
    wanted: Notify,
    closing: Notify,
    closed: AtomicBool,
    fetches: AtomicU64,
    generations: AtomicU64,
    /// Whether there ever were any, for who waits for that.
    there: (Mutex<bool>, Condvar),
}

impl Keys {
    /// # Errors
    /// When the source is here and has no keys. A source elsewhere may come later.
    pub(super) fn new(config: JwtConfig) -> Result<Self, KeyError> {
        let keys = Self {
            config,
            current: ArcSwapOption::empty(),
            wanted: Notify::new(),
            closing: Notify::new(),
            closed: AtomicBool::new(false),
            fetches: AtomicU64::new(0),
            generations: AtomicU64::new(0),
            there: (Mutex::new(false), Condvar::new()),
        };
        let first = match &keys.config.source {
            KeySource::Secret(secret) => Some(KeySet::secret(secret, &keys.asked())?),
            KeySource::PublicKeyFile(path) | KeySource::JwksFile(path) => Some(keys.file(path)?.1),
            KeySource::Issuer(_) | KeySource::JwksUrl(_) => None,
        };
        first.into_iter().for_each(|first| keys.replace(first));
        Ok(keys)
    }

    /// Those in force, if there ever were any.
    pub(super) fn current(&self) -> arc_swap::Guard<Option<Arc<KeySet>>> {
        self.current.load()
    }

    /// A token named a key that is not there.
    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Times keys were asked for elsewhere.
    pub(super) fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::Relaxed)
    }

    /// Whether the keys may change without being told.
    pub(super) fn is_renewed(&self) -> bool {
        !matches!(self.config.source, KeySource::Secret(_))
    }

    /// Ends the renewal.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.closing.notify_one();
    }

    /// Renews the keys until [`Keys::close`].
    ///
    /// # Errors
    /// When the thread can't be set up for it.
    pub(super) fn renew(&self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            if self.closed.load(Ordering::Acquire) {
                return Ok(());
            }
            tokio::select! {
                () = self.closing.notified() => Ok(()),
                ended = self.renew_for_ever() => ended,
            }
        })
    }

    async fn renew_for_ever(&self) -> io::Result<()> {
        match &self.config.source {
            KeySource::Secret(_) => Ok(()),
            KeySource::PublicKeyFile(path) | KeySource::JwksFile(path) => self.follow(path).await,
            KeySource::Issuer(_) | KeySource::JwksUrl(_) => self.fetch_again_and_again().await,
        }
    }

    async fn fetch_again_and_again(&self) -> io::Result<()> {
        let fetcher = Fetcher::new(self.config.timeout)?;
        let (mut pause, mut last) = (FIRST_PAUSE, None);
        loop {
            let started = Instant::now();
            self.fetches.fetch_add(1, Ordering::Relaxed);
            let next = match self.fetch(&fetcher).await {
                Ok((print, fetched)) => {
                    if last.replace(print) != Some(print) {
                        self.replace(fetched);
                    }
                    pause = FIRST_PAUSE;
                    self.config.refresh
                }
                Err(why) => {
                    let kept = self.current.load().is_some();
                    tracing::warn!(%why, kept, "the keys of tokens could not be fetched");
                    let next = pause;
                    pause = (pause * 2).min(self.config.refresh);
                    next
                }
            };
            let next = started + next;
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.wanted.notified() => sleep_until(next.min(started + self.config.cooldown)).await,
            }
        }
    }

    async fn fetch(&self, fetcher: &Fetcher) -> Result<(Print, Vec<Key>), String> {
        let document = match &self.config.source {
            KeySource::Issuer(issuer) => fetcher.discovered(issuer).await,
            KeySource::JwksUrl(url) => fetcher.get(Uri::clone(url)).await,
            _ => return Err("nothing to fetch".to_owned()),
        };
        let document = document.map_err(|error| error.to_string())?;
        let keys = KeySet::jwks(&document, &self.asked()).map_err(|error| error.to_string())?;
        Ok((print(&document), keys))
    }

    /// Takes up a file's keys whenever it changes, also by a link that leads elsewhere now.
    async fn follow(&self, path: &Path) -> io::Result<()> {
        let (mut seen, mut last) = (None, None);
        loop {
            let now = mark(path);
            if now != seen {
                match self.file(path) {
                    Ok((print, keys)) => {
                        if last.replace(print) != Some(print) {
                            self.replace(keys);
                        }
                    }
                    Err(why) => {
                        tracing::warn!(%why, path = %path.display(), "the file has no keys: the old ones stay");
                    }
                }
                seen = now;
            }
            sleep(LOOK).await;
        }
    }

    fn file(&self, path: &Path) -> Result<(Print, Vec<Key>), KeyError> {
        let text = read_regular(path).map_err(|error| KeyError::Unreadable(error.to_string()))?;
        let keys = match self.config.source {
            KeySource::PublicKeyFile(_) => KeySet::pem(&text, &self.asked())?,
            _ => KeySet::jwks(&text, &self.asked())?,
        };
        Ok((print(&text), keys))
    }

    fn replace(&self, keys: Vec<Key>) {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        self.current.store(Some(Arc::new(KeySet::new(keys, generation))));
        let (there, told) = &self.there;
        *there.lock().unwrap_or_else(PoisonError::into_inner) = true;
        told.notify_all();
    }

    /// Waits until there are some, no longer than that. Returns whether there are.
    pub(super) fn wait(&self, patience: Duration) -> bool {
        let (there, told) = &self.there;
        let there = there.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = told.wait_timeout_while(there, patience, |there| !*there);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn asked(&self) -> Asked<'_> {
        let issuer = match (&self.config.issuer, &self.config.source) {
            (Some(issuer), _) | (None, KeySource::Issuer(issuer)) => Some(issuer.as_str()),
            _ => None,
        };
        Asked { issuer, audience: &self.config.audience }
    }
}

pub(super) type Print = [u8; 32];

pub(super) fn print(document: &[u8]) -> Print {
    let mut print = [0; 32];
    print.iter_mut().zip(digest(&SHA256, document).as_ref()).for_each(|(to, from)| *to = *from);
    print
}

/// What changes when a file does.
fn mark(path: &Path) -> Option<(i64, i64, u64, u64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.mtime(), found.mtime_nsec(), found.ino(), found.len()))
}
