//! The proxy as a library, serving one client over loopback in front of a service that always says the same.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ratelimit_proxy::config::{Listener, load_str};
use ratelimit_proxy::server::{Listeners, Server};
use ratelimit_proxy::{AnyStore, Shared};

use crate::report::Result;

const REQUEST: &[u8] =
    b"GET /v1/users/7?page=2 HTTP/1.1\r\nhost: api.example.com\r\naccept: application/json\r\n\
user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0\r\n\
accept-encoding: gzip, deflate, br, zstd\r\nx-api-key: k-0123456789abcdef\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 33\r\n\r\n\
hello world, this is a small body";

/// A client's connection to a proxy that runs in this process.
pub struct Served {
    client: TcpStream,
    came: Vec<u8>,
    chunk: Box<[u8; 4096]>,
    pause: Duration,
    _server: Server,
}

impl Served {
    /// With one limit by client address, which nothing reaches, or which everything but the first request does.
    /// Client and service wait for `pause` before they send, so that what they send to is always asleep by then: whether
    /// it found something at once would be a race.
    ///
    /// # Errors
    /// When it can't listen, or the first request is not answered.
    pub fn start(denying: bool, pause: Duration) -> Result<Self> {
        let origin = TcpListener::bind("127.0.0.1:0")?;
        let upstream = origin.local_addr()?;
        std::thread::spawn(move || {
            for stream in origin.incoming().flatten() {
                std::thread::spawn(move || answer(stream, pause));
            }
        });
        let limit = if denying { "1/day by client.ip" } else { "1000000/s by client.ip" };
        let text = format!("upstream: http://{upstream}\nlog: {{requests: off}}\nlimits: [{limit}]\n");
        let loaded = load_str(&text, "bench.yaml", &|_| None, Path::new(""));
        let config = loaded.map_err(|faults| format!("{faults:?}"))?.config;
        let listeners = Listeners::bind(&[Listener::from(SocketAddr::from(([127, 0, 0, 1], 0)))], 1)?;
        let server = Server::start(&Arc::new(Shared::new(&config, AnyStore::default())), listeners)?;
        let address = server.addresses().first().copied().ok_or("it listens nowhere")?;
        let client = TcpStream::connect(address)?;
        client.set_nodelay(true)?;
        let mut served =
            Self { client, came: Vec::new(), chunk: Box::new([0; 4096]), pause, _server: server };
        match served.exchange()? {
            200 => Ok(served),
            status => Err(format!("the first request was answered with {status}").into()),
        }
    }

    /// Sends the request and reads the answer: its status.
    ///
    /// # Errors
    /// When the connection ends, or the answer does not keep the grammar.
    pub fn exchange(&mut self) -> Result<u16> {
        std::thread::sleep(self.pause);
        self.client.write_all(REQUEST)?;
        self.came.clear();
        loop {
            let length = self.client.read(self.chunk.as_mut_slice())?;
            if length == 0 {
                return Err("the connection was closed".into());
            }
            self.came.extend_from_slice(self.chunk.get(..length).unwrap_or_default());
            if let Some(status) = complete(&self.came)? {
                return Ok(status);
            }
        }
    }
}

/// The status of an answer that is all there.
///
/// # Errors
/// When it does not keep the grammar, or has no length.
pub fn complete(came: &[u8]) -> Result<Option<u16>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(start) = head.parse(came)? else { return Ok(None) };
    let length = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length: usize =
        std::str::from_utf8(length.ok_or("an answer without content-length")?.value)?.trim().parse()?;
    let status = head.code.ok_or("an answer without a status")?;
    Ok((came.len() >= start + length).then_some(status))
}

/// The service. Requests come one at a time, each in one piece.
fn answer(mut stream: TcpStream, pause: Duration) {
    let mut chunk = [0; 4096];
    while let Ok(length) = stream.read(&mut chunk)
        && length > 0
    {
        let ended = chunk.get(..length).is_some_and(|piece| piece.ends_with(b"\r\n\r\n"));
        std::thread::sleep(pause);
        if ended && stream.write_all(ANSWER).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_allows_and_denies() {
        assert_eq!(Served::start(false, Duration::ZERO).unwrap().exchange().unwrap(), 200);
        assert_eq!(Served::start(true, Duration::ZERO).unwrap().exchange().unwrap(), 429);
    }

    #[test]
    fn an_answer_is_complete_with_its_body() {
        assert_eq!(complete(ANSWER).unwrap(), Some(200));
        assert_eq!(complete(&ANSWER[..ANSWER.len() - 1]).unwrap(), None);
        assert!(complete(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
