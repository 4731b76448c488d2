//! Health checks: each server that has one is asked as often as it should be, whatever requests do; `watch.rs` says by
//! whom.
//!
//! A check is a GET on a connection of its own; a status from 200 to 399 in time says that the server works. The first
//! check of a server is made at once, and if it fails the server is down at once; later it takes some in a row. The
//! pauses differ by up to a tenth, so that replicas do not ask in step.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::{Instant, sleep_until, timeout};

use super::connect::{Protocol, Unconnected, connect};
use super::server::Server;
use crate::config::HealthCheck;

/// Asks `server` until nobody wants that any more.
pub(super) async fn keep_checking(server: Arc<Server>, check: HealthCheck) {
    let mut state = State::default();
    loop {
        let begun = Instant::now();
        let answer = timeout(check.timeout, ask(&server, &check)).await.unwrap_or(Err(Why::Slow));
        if let Some(up) = state.take(answer.is_ok(), server.is_down(), &check)
            && server.checked(up)
        {
            match answer {
                Err(why) => tracing::warn!(%server, %why, "the server is down"),
                Ok(()) => tracing::info!(%server, "the server is up"),
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
