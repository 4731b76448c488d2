//! The clients: who they are, and how they behave.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::screen::Screen;

/// How long a client waits for an answer of this machine's own.
const PATIENCE: Duration = Duration::from_secs(5);

/// One of them.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// What it sends as its API key, if it has one.
    key: Option<&'static str>,
    /// The address that the load balancer in front would report; from the ranges set aside for examples.
    address: &'static str,
    pub(super) method: Method,
    pub(super) path: &'static str,
    pace: Pace,
}

#[derive(Clone, Copy, Debug)]
enum Pace {
    /// One request after each of these pauses.
    Steady(Duration),
    /// As many at once, again after a pause.
    Bursts(usize, Duration),
    /// One after each pause; when denied, as long as it is told to wait.
    Obedient(Duration),
}

pub(super) const CLIENTS: [Client; 4] = [
    Client {
        name: "ann",
        about: "polite: a request now and then",
        key: Some("ann"),
        address: "198.51.100.1",
        method: Method::GET,
        path: "/items",
        pace: Pace::Steady(Duration::from_millis(1200)),
    },
    Client {
        name: "bob",
        about: "bursty: eleven requests at once, every five seconds",
        key: Some("bob"),
        address: "198.51.100.2",
        method: Method::GET,
        path: "/items",
        pace: Pace::Bursts(11, Duration::from_secs(5)),
    },
    Client {
        name: "carol",
        about: "too fast, but waits as Retry-After says",
        key: None,
        address: "198.51.100.3",
        method: Method::GET,
        path: "/items",
        pace: Pace::Obedient(Duration::from_millis(280)),
    },
    Client {
        name: "mallory",
        about: "guesses passwords, and does not stop",
        key: None,
        address: "203.0.113.66",
        method: Method::POST,
        path: "/login",
        pace: Pace::Steady(Duration::from_millis(700)),
    },
];

/// What a client got.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
}

impl Client {
    /// Behaves as it does until told to stop; requests under way are waited for.
    pub(super) async fn play(
        &self,
        proxy: SocketAddr,
        mut stopped: watch::Receiver<bool>,
        screen: &RefCell<Screen>,
    ) {
        while !*stopped.borrow() {
            let pause = match self.pace {
                Pace::Steady(pause) => {
                    self.ask(proxy, screen).await;
                    pause
                }
                Pace::Bursts(count, pause) => {
                    futures_util::future::join_all((0..count).map(|_| self.ask(proxy, screen))).await;
                    pause
                }
                Pace::Obedient(pause) => self.ask(proxy, screen).await.unwrap_or(pause),
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        }
    }

    /// Sends a request and shows what came. Returns how long it was told to wait.
    async fn ask(&self, proxy: SocketAddr, screen: &RefCell<Screen>) -> Option<Duration> {
        let answer = tokio::time::timeout(PATIENCE, self.exchange(proxy)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".into()));
        let wait = answer.as_ref().ok().and_then(Answer::retry_after);
        screen.borrow_mut().line(self, &answer.map_err(|error| error.to_string()));
        wait.map(Duration::from_secs)
    }

    async fn exchange(&self, proxy: SocketAddr) -> Result<Answer, Box<dyn std::error::Error>> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(self.path)
            .header(header::HOST, "shop.example")
            .header(header::CONNECTION, "close")
            .header("x-forwarded-for", self.address);
        if let Some(key) = self.key {
            request = request.header("x-api-key", key);
        }
        let request = request.body(Empty::<Bytes>::new())?;
        let socket = TcpStream::connect(proxy).await?;
        let (mut sender, connection) = handshake(TokioIo::new(socket)).await?;
        let answered = async move {
            let (head, body) = sender.send_request(request).await?.into_parts();
            body.collect().await?;
            Ok(Answer { status: head.status, headers: head.headers })
        };
        // A connection that broke shows in the answer.
        let (_, answer) = tokio::join!(connection, answered);
        answer
    }
}

impl Answer {
    /// Seconds after which asking again helps.
    pub(super) fn retry_after(&self) -> Option<u64> {
        self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()
    }

    /// The limit that binds, and the units it has left.
    pub(super) fn binding(&self) -> Option<(&str, u64)> {
        let field = self.headers.get("ratelimit")?.to_str().ok()?;
        Some((quoted(field)?, parameter(field, "r")?))
    }

    /// The most units that limit can have.
    pub(super) fn capacity(&self, limit: &str) -> Option<u64> {
        let field = self.headers.get("ratelimit-policy")?.to_str().ok()?;
        let item = field.split(',').map(str::trim).find(|item| quoted(item) == Some(limit))?;
        parameter(item, "q")
    }
}

/// The string at the start of an item. Names of limits have no quotes in them.
fn quoted(item: &str) -> Option<&str> {
    item.strip_prefix('"')?.split('"').next()
}

fn parameter(item: &str, name: &str) -> Option<u64> {
    let mut parameters = item.split([';', ',']).skip(1);
    parameters.find_map(|parameter| parameter.trim().strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_read() {
        let mut headers = HeaderMap::new();
        headers.insert("ratelimit", "\"login\";r=3;t=24".parse().unwrap());
        headers.insert("ratelimit-policy", "\"per-client\";q=8;w=4, \"login\";q=5;w=60".parse().unwrap());
        headers.insert("retry-after", "7".parse().unwrap());
        let answer = Answer { status: StatusCode::OK, headers };
        assert_eq!(answer.binding(), Some(("login", 3)));
        assert_eq!(answer.capacity("login"), Some(5));
        assert_eq!(answer.capacity("per-client"), Some(8));
        assert_eq!(answer.capacity("none"), None);
        assert_eq!(answer.retry_after(), Some(7));
    }
}
