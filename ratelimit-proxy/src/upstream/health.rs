//! Health checks: a thread of its own asks each server that has one, as often as it should be, whatever requests do.
//!
//! A check is a GET on a connection of its own; a status from 200 to 399 in time says that the server works. The first
//! check of a server is made at once, and if it fails the server is down at once; later it takes some in a row. The
//! pauses differ by up to a tenth, so that replicas do not ask in step.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::Builder;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::connect::{Protocol, Unconnected, connect};
use super::group::Upstreams;
use super::server::Server;
use crate::config::HealthCheck;
use crate::state::Shared;
use crate::supervise;
use crate::telemetry::metrics::Metrics;

/// How often the thread looks whether anybody needs it still.
const LOOK: Duration = Duration::from_secs(5);

/// Checks the servers of the rules in force until nobody else holds `shared`.
///
/// # Errors
/// When there is no thread to be had.
pub(crate) fn watch(shared: &Arc<Shared>) -> io::Result<()> {
    let weak = Arc::downgrade(shared);
    let work = move || Builder::new_current_thread().enable_all().build()?.block_on(follow(&weak));
    supervise::thread("health", &shared.metrics, work).map(drop)
}

async fn follow(shared: &Weak<Shared>) -> io::Result<()> {
    let mut checks = Checks::default();
    while let Some(strong) = shared.upgrade() {
        // Asked for first: what changes while it is looked at is a change.
        let changes = strong.rules.changes();
        let changed = changes.notified();
        checks.are_those_of(&strong.rules.load().upstreams, &strong.metrics);
        drop(strong);
        let _ = timeout(LOOK, changed).await;
    }
    Ok(())
}

/// The checks that are made, by their servers, which know nothing of each other.
#[derive(Default)]
struct Checks(HashMap<*const Server, Task>);

/// Ends with the value.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Checks {
    /// Begins those that are missing and ends those that are too many.
    fn are_those_of(&mut self, upstreams: &Upstreams, metrics: &Arc<Metrics>) {
        let mut wanted = HashMap::new();
        for group in upstreams.groups() {
            let Some(check) = &group.check else { continue };
            wanted.extend(group.servers.iter().map(|server| (Arc::as_ptr(server), (server, check))));
        }
        // A task holds its server, so no other can have the same address meanwhile.
        self.0.retain(|server, _| wanted.contains_key(server));
        for (address, (server, check)) in wanted {
            self.0.entry(address).or_insert_with(|| {
                let (server, check) = (Arc::clone(server), check.clone());
                let work = move || keep_checking(Arc::clone(&server), check.clone());
                Task(tokio::spawn(supervise::keep("health check", metrics, work)))
            });
        }
    }
}

async fn keep_checking(server: Arc<Server>, check: HealthCheck) {
    let mut state = State::default();
    loop {
        let begun = Instant::now();
        let answer = timeout(check.timeout, ask(&server, &check)).await.unwrap_or(Err(Why::Slow));
        if let Some(up) = state.take(answer.is_ok(), server.is_down(), &check)
            && server.checked(up)
        {
            match answer {
                Err(why) => tracing::warn!(server = %server.target, %why, "the server is down"),
                Ok(()) => tracing::info!(server = %server.target, "the server is up"),
            }
        }
        sleep_until(begun + check.interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

/// What the last checks of a server came to.
#[derive(Debug, Default)]
struct State {
    /// Checks in a row that came to the same.
    row: u32,
    last: Option<bool>,
}

impl State {
    /// Takes an answer. Returns what the server is now, if that is another thing than it was.
    fn take(&mut self, good: bool, is_down: bool, check: &HealthCheck) -> Option<bool> {
        let first = self.last.is_none();
        self.row = if self.last == Some(good) { self.row.saturating_add(1) } else { 1 };
        self.last = Some(good);
        let enough = first || self.row >= if good { check.rise } else { check.fall };
        (good == is_down && enough).then_some(good)
    }
}

/// The answer, while the connection does what it has to.
async fn answer(
    asking: impl Future<Output = hyper::Result<Response<Incoming>>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> hyper::Result<Response<Incoming>> {
    let mut asking = std::pin::pin!(asking);
    tokio::select! {
        biased;
        answer = &mut asking => answer,
        // It says why.
        _ = connection => asking.await,
    }
}

/// Why a server does not seem to work.
#[derive(Debug)]
enum Why {
    Slow,
    Unconnected(Unconnected),
    Broken(hyper::Error),
    Status(StatusCode),
}

async fn ask(server: &Server, check: &HealthCheck) -> Result<(), Why> {
    let target = &server.target;
    let (socket, protocol) = connect(server).await.map_err(Why::Unconnected)?;
    let io = TokioIo::new(socket);
    let mut request = Request::new(Empty::<Bytes>::new());
    let headers = request.headers_mut();
    let agent = concat!("ratelimit-proxy/", env!("CARGO_PKG_VERSION"), " (health check)");
    headers.insert(header::USER_AGENT, http::HeaderValue::from_static(agent));
    let answer = match protocol {
        Protocol::Http1 => {
            headers.insert(header::HOST, target.authority().clone());
            headers.insert(header::CONNECTION, http::HeaderValue::from_static("close"));
            *request.uri_mut() = check.path.clone().into();
            let (mut sender, connection) = http1::handshake(io).await.map_err(Why::Broken)?;
            answer(sender.send_request(request), connection).await
        }
        Protocol::Http2 => {
            *request.uri_mut() = target.uri(&check.path);
            let exec = TokioExecutor::new();
            let (mut sender, connection) = http2::handshake(exec, io).await.map_err(Why::Broken)?;
            answer(sender.send_request(request), connection).await
        }
    };
    match answer.map_err(Why::Broken)?.status() {
        status if (200..400).contains(&status.as_u16()) => Ok(()),
        status => Err(Why::Status(status)),
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow => f.write_str("no answer in time"),
            Self::Unconnected(error) => write!(f, "{error}"),
            Self::Broken(error) => write!(f, "{error}"),
            Self::Status(status) => write!(f, "status {}", status.as_u16()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_counts_at_once_and_later_some_in_a_row() {
        let path = http::uri::PathAndQuery::from_static("/");
        let check = HealthCheck { fall: 3, rise: 2, ..HealthCheck::new(path) };
        let run = |answers: &[bool]| {
            let (mut state, mut down) = (State::default(), false);
            let mut states = Vec::new();
            for good in answers {
                if let Some(up) = state.take(*good, down, &check) {
                    down = !up;
                }
                states.push(!down);
            }
            states
        };
        assert_eq!(run(&[false, true, true]), [false, false, true]);
        assert_eq!(
            run(&[true, false, false, true, false, false, false]),
            [true, true, true, true, true, true, false]
        );
        assert_eq!(run(&[false, true, false, true, true]), [false, false, false, false, true]);
    }
}
