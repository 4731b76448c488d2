//! A client that sends any bytes and reads what comes.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::origin::fields;
use super::soon;

/// A response as it came over the wire.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    /// All values of a field.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        fields(&self.head, name)
    }

    /// The value of a field that must not come twice.
    pub fn field(&self, name: &str) -> Option<&str> {
        let fields = self.fields(name);
        assert!(fields.len() <= 1, "{name} comes {} times in {}", fields.len(), self.head);
        fields.first().copied()
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A connection.
pub struct Client {
    pub socket: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = soon("a connection", TcpStream::connect(address)).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, buffer: Vec::new() }
    }

    /// If somebody listens there.
    pub async fn try_connect(address: SocketAddr) -> Option<Self> {
        let socket = soon("a connection", TcpStream::connect(address)).await.ok()?;
        socket.set_nodelay(true).unwrap();
        Some(Self { socket, buffer: Vec::new() })
    }

    /// From that address of this machine.
    pub async fn connect_from(from: IpAddr, to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from, 0)).unwrap();
        let socket = soon("a connection", socket.connect(to)).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, buffer: Vec::new() }
    }

    /// Sends these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon("the proxy to read", self.socket.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends these bytes as far as the proxy takes them.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        soon("the proxy to read or close", self.socket.write_all(bytes.as_ref())).await.is_ok()
    }

    /// Sends a GET.
    pub async fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        self.response().await
    }

    /// Reads the response to a request other than HEAD.
    pub async fn response(&mut self) -> Response {
        self.response_to("GET")
            .await
            .unwrap_or_else(|| panic!("the connection was closed without a response"))
    }

    /// Reads a response; `None` if the connection is closed instead.
    pub async fn response_to(&mut self, method: &str) -> Option<Response> {
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break String::from_utf8(self.buffer.drain(..end + 4).collect()).unwrap();
            }
            if !self.more().await {
                assert!(self.buffer.is_empty(), "half a head: {:?}", String::from_utf8_lossy(&self.buffer));
                return None;
            }
        };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let bodiless = method == "HEAD" || status == 204 || status == 304 || status < 200;
        let length = fields(&head, "content-length");
        let codings = fields(&head, "transfer-encoding");
        assert!(length.len() + codings.len() <= 1, "ambiguous: {head}");
        let body = if bodiless {
            Vec::new()
        } else if let Some(length) = length.first() {
            self.exactly(length.parse().unwrap()).await
        } else if !codings.is_empty() {
            self.chunks().await
        } else {
            while self.more().await {}
            std::mem::take(&mut self.buffer)
        };
        Some(Response { status, head, body })
    }

    /// So many bytes.
    pub async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(self.more().await, "closed after {} of {length} bytes", self.buffer.len());
        }
        self.buffer.drain(..length).collect()
    }

    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                    break end;
                }
                assert!(self.more().await, "closed within the chunks");
            };
            let line = String::from_utf8(self.buffer.drain(..end + 2).collect()).unwrap();
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            body.extend(self.exactly(size).await);
            if size == 0 {
                // Trailers, up to the empty line.
                while self.exactly(2).await != b"\r\n" {
                    while !self.buffer.windows(2).any(|window| window == b"\r\n") {
                        assert!(self.more().await);
                    }
                    let end = self.buffer.windows(2).position(|window| window == b"\r\n").unwrap();
                    self.buffer.drain(..end + 2);
                }
                return body;
            }
            assert_eq!(self.exactly(2).await, b"\r\n");
        }
    }

    /// Everything that comes until the connection is closed.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Whether the connection ends without another byte.
    pub async fn is_closed(&mut self) -> bool {
        self.rest().await.is_empty()
    }

    /// Whether more came; an end and a reset are both an end.
    async fn more(&mut self) -> bool {
        let read = soon("the proxy to answer or close", self.socket.read_buf(&mut self.buffer)).await;
        matches!(read, Ok(1..))
    }
}

/// One GET on a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> Response {
    Client::connect(address).await.get(path).await
}

/// One request on a connection of its own, written as `POST /login` and lines of fields; `host: test` unless one
/// of them is a host.
pub async fn ask(address: SocketAddr, request: &str) -> Response {
    let mut lines = request.lines();
    let line = lines.next().unwrap_or_default();
    let mut head = format!("{line} HTTP/1.1\r\n");
    let mut fields = String::from("connection: close\r\n");
    if !lines.clone().any(|field| field.to_ascii_lowercase().starts_with("host:")) {
        fields.push_str("host: test\r\n");
    }
    lines.for_each(|field| fields.extend([field, "\r\n"]));
    head.extend([&fields, "\r\n"]);
    let mut client = Client::connect(address).await;
    client.send(head).await;
    let method = line.split(' ').next().unwrap_or_default();
    client.response_to(method).await.unwrap_or_else(|| panic!("{request} got no response"))
}

/// Asks for each of these in turn, and compares the statuses.
pub async fn expect(address: SocketAddr, steps: &[(&str, u16)]) {
    for (number, (request, status)) in steps.iter().enumerate() {
        let response = ask(address, request).await;
        assert_eq!(
            response.status,
            *status,
            "step {number}: {request}\n{}{}",
            response.head,
            response.text()
        );
    }
}
