//! Clients of HTTP/2: a well-behaved one, and one that sends any frames.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::soon;

/// A connection, and the task that drives it: what it ended with.
pub struct Connection {
    pub send: SendRequest<Bytes>,
    pub driven: JoinHandle<Result<(), h2::Error>>,
}

impl Connection {
    /// With prior knowledge.
    pub async fn open(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
        let (send, connection) = soon("a handshake", builder.handshake(socket)).await.unwrap();
        Self { send, driven: tokio::spawn(connection) }
    }

    /// A request without a body, and its answer.
    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Request::get(format!("http://test{path}")).body(()).unwrap(), None).await
    }

    /// A request and its answer.
    pub async fn ask(&self, request: Request<()>, body: Option<Bytes>) -> Answer {
        self.try_ask(request, body).await.unwrap()
    }

    /// A request, and its answer or what became of it.
    pub async fn try_ask(&self, request: Request<()>, body: Option<Bytes>) -> Result<Answer, h2::Error> {
        let mut send = soon("room for a stream", self.send.clone().ready()).await?;
        let (response, mut stream) = send.send_request(request, body.is_none())?;
        if let Some(body) = body {
            // What the proxy does not want any more can't be sent, and its answer is there all the same.
            let _ = stream.send_data(body, true);
        }
        let (head, mut incoming) = soon("an answer", response).await?.into_parts();
        let mut body = Vec::new();
        while let Some(data) = soon("a body", incoming.data()).await {
            let data = data?;
            incoming.flow_control().release_capacity(data.len())?;
            body.extend_from_slice(&data);
        }
        let trailers = soon("trailers", incoming.trailers()).await?;
        Ok(Answer { head, body, trailers })
    }
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub head: response::Parts,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Kinds of frames.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags of frames.
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A connection that sends any frames.
pub struct Frames {
    pub socket: TcpStream,
    buffer: Vec<u8>,
}

/// A frame that came.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of an error, of a GOAWAY or RST_STREAM.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// Whether it is the head of a 400.
    pub fn is_bad_request(&self) -> bool {
        // The static table has it.
        self.kind == HEADERS && self.payload.first() == Some(&0x8c)
    }
}

impl Frames {
    /// With these settings of ours.
    pub async fn open(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut frames = Self { socket, buffer: Vec::new() };
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        first.extend(frame(SETTINGS, 0, 0, &payload));
        assert!(frames.send(&first).await);
        frames
    }

    /// Sends these bytes; whether the proxy took them.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        soon("the proxy to read or close", self.socket.write_all(bytes)).await.is_ok()
    }

    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.buffer.get(..9) {
                let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap();
                if self.buffer.len() >= 9 + length {
                    let frame: Vec<u8> = self.buffer.drain(..9 + length).collect();
                    let stream = u32::from_be_bytes(frame[5..9].try_into().unwrap()) & 0x7fff_ffff;
                    return Some(Frame {
                        kind: frame[3],
                        flags: frame[4],
                        stream,
                        payload: frame[9..].to_vec(),
                    });
                }
            }
            let read = soon("a frame or the end", self.socket.read_buf(&mut self.buffer)).await;
            if !matches!(read, Ok(1..)) {
                return None;
            }
        }
    }

    /// The next frame that fits; `None` if the connection ends before it.
    pub async fn find(&mut self, fits: impl Fn(&Frame) -> bool) -> Option<Frame> {
        while let Some(frame) = self.next().await {
            if fits(&frame) {
                return Some(frame);
            }
        }
        None
    }
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Fields as HPACK writes them without any table.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn length(block: &mut Vec<u8>, mut length: usize) {
    if length < 127 {
        return block.push(length as u8);
    }
    block.push(127);
    length -= 127;
    while length >= 128 {
        block.push((length % 128) as u8 | 128);
        length /= 128;
    }
    block.push(length as u8);
}

/// The head of a GET.
pub fn get(path: &str) -> Vec<u8> {
    fields(&[(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", path)])
}
