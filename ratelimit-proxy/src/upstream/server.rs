//! [`Server`]: one server of an upstream, and whether it works, as all threads know it. It lives on across reloads
//! for as long as the configuration names it.
//!
//! Two things are known about a server. Whether its *health check* succeeds, if it has one (`health.rs`). And
//! whether requests to it fail: after some in a row it is *ejected* for a while, which grows as that happens again.
//! When the while is over, one request at a time tries it; the first that succeeds brings it back.
//!
//! What a client can cause counts for nothing: a status, whatever it is, is an answer. Only connections that can't be
//! had, answers that are none and answers that don't come count, and any answer in between sets the count back.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::balance::Choice;
use super::names::Name;
use super::target::Target;
use super::tls::Tls;

/// Failures in a row that eject a server.
const FAILURES: u32 = 5;
/// How long it is ejected at first, and at most.
const EJECTION: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// How long the next try waits for the one before.
const TRY: Duration = Duration::from_secs(1);

/// A server of an upstream.
pub(crate) struct Server {
    pub(crate) target: Target,
    /// Where its address comes from, if it has a name.
    pub(super) name: Option<Arc<Name>>,
    /// How it is spoken to, if its URL says with TLS.
    pub(super) tls: Option<Tls>,
    seed: u64,
    born: Instant,
    /// Requests under way, where somebody needs to know.
    under_way: AtomicU32,
    /// Whether its health check fails.
    down: AtomicBool,
    /// Failures in a row.
    failures: AtomicU32,
    /// Ejections in a row.
    ejections: AtomicU32,
    /// When the last one ended with an answer, in milliseconds since it was born.
    recovered: AtomicU64,
    /// When it may be tried again, in milliseconds since it was born; 0: it is not ejected.
    ejected: AtomicU64,
}

impl Server {
    pub(super) fn new(target: Target, name: Option<Arc<Name>>, tls: Option<Tls>) -> Self {
        let url = target.to_string();
        let place = target.address().map_or_else(|| url.clone(), |address| format!("{url} {address}"));
        let hash = blake3::hash(place.as_bytes());
        Self {
            target,
            name,
            tls,
            seed: hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)),
            // Never at moment 0, which means another thing.
            born: Instant::now().checked_sub(Duration::from_millis(1)).unwrap_or_else(Instant::now),
            under_way: AtomicU32::new(0),
            down: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            recovered: AtomicU64::new(0),
            ejected: AtomicU64::new(0),
        }
    }

    /// Whether it is thought to work.
    pub(crate) fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed) && self.ejected.load(Ordering::Relaxed) == 0
    }

    /// What is known of it, in a word.
    pub(crate) fn state(&self) -> &'static str {
        match (self.is_down(), self.is_up()) {
            (true, _) => "down",
            (false, false) => "ejected",
            (false, true) => "up",
        }
    }

    /// Whether its health check fails.
    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Whether requests may go there: it is thought to work, or it is time to try.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        if self.down.load(Ordering::Relaxed) {
            return false;
        }
        let until = self.ejected.load(Ordering::Relaxed);
        until == 0 || until <= self.at(now)
    }

    /// Takes note that a request goes there. Where it is to be tried, only one may at a time: `false` if another does.
    pub(super) fn claim(&self, now: Instant) -> bool {
        let until = self.ejected.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        let next = self.at(now + TRY);
        until <= self.at(now)
            && self.ejected.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// It answered.
    #[inline]
    pub(super) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.recovered();
        }
    }

    #[cold]
    fn recovered(&self) {
        self.failures.store(0, Ordering::Relaxed);
        if self.ejected.swap(0, Ordering::Relaxed) != 0 {
            self.recovered.store(self.at(Instant::now()), Ordering::Relaxed);
            tracing::info!(server = %self, "the server answers again");
        }
    }

    /// It failed. `may_eject`: there are enough others.
    #[cold]
    pub(super) fn failed(&self, now: Instant, may_eject: bool) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let ejected = self.ejected.load(Ordering::Relaxed);
        // What was under way when it was ejected says nothing new.
        let trying = ejected != 0 && self.at(now + TRY) >= ejected;
        if failures < FAILURES || !may_eject || (ejected != 0 && !trying) {
            return;
        }
        let well = self.at(now).saturating_sub(self.recovered.load(Ordering::Relaxed));
        let again = ejected != 0 || u128::from(well) < EJECTION.1.as_millis();
        let before = if again { self.ejections.load(Ordering::Relaxed) } else { 0 };
        let length = EJECTION.0.saturating_mul(1 << before.min(16)).min(EJECTION.1);
        let until = self.at(now + length);
        if self.ejected.compare_exchange(ejected, until, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.ejections.store(before.saturating_add(1), Ordering::Relaxed);
            let seconds = length.as_secs();
            tracing::warn!(server = %self, failures, seconds, "the server fails and is left out");
        }
    }

    /// Takes note of what its health check says. Returns whether that is new.
    pub(super) fn checked(&self, up: bool) -> bool {
        let changed = self.down.swap(!up, Ordering::Relaxed) == up;
        if changed && up {
            self.failures.store(0, Ordering::Relaxed);
            self.ejected.store(0, Ordering::Relaxed);
        }
        changed
    }

    /// A request begins; to be told of its end.
    pub(super) fn begin(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// It ended.
    pub(super) fn end(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    fn at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Choice for Server {
    fn load(&self) -> u32 {
        self.under_way.load(Ordering::Relaxed)
    }

    fn seed(&self) -> u64 {
        self.seed
    }
}

/// Its URL, and which of the addresses of its name it is at.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target.address() {
            Some(address) => write!(f, "{} ({address})", self.target),
            None => write!(f, "{}", self.target),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("target", &self.target)
            .field("up", &self.is_up())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server::new("http://127.0.0.1:1".parse().unwrap(), None, None)
    }

    fn fail(server: &Server, now: Instant, times: u32) {
        (0..times).for_each(|_| server.failed(now, true));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_eject_for_a_while_that_grows_and_one_request_tries() {
        let server = server();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        fail(&server, start, FAILURES - 1);
        server.succeeded();
        fail(&server, start, FAILURES - 1);
        assert!(server.is_up() && server.claim(start), "an answer in between sets the count back");
        fail(&server, start, 1);
        assert!(!server.is_up() && !server.is_usable(start) && !server.claim(start));
        // What was under way fails, too, and says nothing new.
        fail(&server, start, 20);
        assert!(!server.is_usable(at(4)) && server.is_usable(at(5)));
        assert!(server.claim(at(5)), "one may try");
        assert!(!server.claim(at(5)) && !server.is_usable(at(5)), "and no other meanwhile");
        fail(&server, at(5), 1);
        assert!(!server.is_usable(at(14)) && server.claim(at(15)), "twice as long");
        // Nobody heard of that try: the next one.
        assert!(server.claim(at(16)));
        tokio::time::advance(Duration::from_secs(17)).await;
        server.succeeded();
        assert!(server.is_up() && server.claim(at(17)));
        fail(&server, at(20), FAILURES);
        assert!(!server.is_usable(at(39)) && server.is_usable(at(40)), "soon after, it grows on");
        fail(&server, at(40), 1);
        fail(&server, at(80), 1);
        assert!(!server.is_usable(at(139)) && server.is_usable(at(140)), "to a minute at most");
        tokio::time::advance(Duration::from_secs(123)).await;
        server.succeeded();
        fail(&server, at(300), FAILURES);
        assert!(server.is_usable(at(305)), "long after, it is as the first time");
    }

    #[tokio::test(start_paused = true)]
    async fn it_stays_where_there_are_too_few_others_and_a_health_check_has_the_last_word() {
        let (server, now) = (server(), Instant::now());
        (0..100).for_each(|_| server.failed(now, false));
        assert!(server.is_up());
        assert!(server.checked(false) && !server.checked(false));
        assert!(!server.is_up() && !server.is_usable(now));
        fail(&server, now, FAILURES);
        assert!(server.checked(true) && server.is_usable(now) && server.is_up());
    }
}
