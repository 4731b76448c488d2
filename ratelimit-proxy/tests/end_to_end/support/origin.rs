//! An upstream that records each request as it came over the wire.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::soon;

/// A request as the upstream saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Number of the connection, from 0.
    pub connection: usize,
    /// All lines up to the empty one.
    pub head: String,
    /// The body, decoded if it came in chunks.
    pub body: Vec<u8>,
    /// Whether all of the body came.
    pub complete: bool,
    /// The lines behind the last chunk.
    pub trailers: Vec<String>,
    /// When the head was complete.
    pub at: std::time::Instant,
}

impl Seen {
    /// The request line.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

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
}

/// The values of a field in a head.
pub fn fields<'h>(head: &'h str, name: &str) -> Vec<&'h str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

/// Something done with a connection.
type Act = Box<dyn FnOnce(TcpStream) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// What the upstream does with a request.
pub enum Reply {
    /// Sends these bytes and waits for the next request.
    Send(Vec<u8>),
    /// Sends these bytes and closes the connection.
    SendAndClose(Vec<u8>),
    /// Sends these bytes and then nothing more, keeping the connection.
    SendAndHang(Vec<u8>),
    /// Does what it likes with the connection, then closes it.
    Take(Act),
}

impl Reply {
    /// 200 with a body.
    pub fn ok(body: &str) -> Self {
        Self::raw(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    }

    /// These bytes.
    pub fn raw(response: &str) -> Self {
        Self::Send(response.as_bytes().to_vec())
    }

    /// Nothing at all, for ever.
    pub fn hang() -> Self {
        Self::SendAndHang(Vec::new())
    }

    /// Closes the connection without a word.
    pub fn close() -> Self {
        Self::SendAndClose(Vec::new())
    }
}

type Respond = dyn Fn(&Seen) -> Reply + Send + Sync;

/// What an upstream has been through.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub seen: Vec<Seen>,
    /// Connections accepted.
    pub accepted: usize,
    /// Connections that are open.
    pub open: usize,
}

/// A running upstream.
pub struct Origin {
    pub address: SocketAddr,
    record: watch::Receiver<Record>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    /// Answers each request as `respond` says.
    pub async fn start(respond: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), respond).await.unwrap()
    }

    /// The same, at that address, if nobody is there.
    pub async fn start_at(
        address: SocketAddr,
        respond: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (sender, record) = watch::channel(Record::default());
        let sender = Arc::new(sender);
        let respond: Arc<Respond> = Arc::new(respond);
        let task = tokio::spawn(async move {
            let mut number = 0;
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).unwrap();
                sender.send_modify(|record| {
                    record.accepted += 1;
                    record.open += 1;
                });
                let (sender, respond) = (Arc::clone(&sender), Arc::clone(&respond));
                tokio::spawn(async move {
                    serve(socket, number, &sender, &*respond).await;
                    sender.send_modify(|record| record.open -= 1);
                });
                number += 1;
            }
        });
        Ok(Self { address, record, task })
    }

    /// Answers 200 `hello` to everything.
    pub async fn hello() -> Self {
        Self::start(|_| Reply::ok("hello")).await
    }

    /// What has come so far.
    pub fn record(&self) -> Record {
        self.record.borrow().clone()
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.record().seen
    }

    /// The only request there was.
    pub fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen[0].clone()
    }

    /// Waits until `condition` holds.
    pub async fn until(&self, what: &str, condition: impl FnMut(&Record) -> bool) -> Record {
        let mut record = self.record.clone();
        soon(what, record.wait_for(condition)).await.unwrap().clone()
    }
}

async fn serve(mut socket: TcpStream, connection: usize, record: &watch::Sender<Record>, respond: &Respond) {
    let mut buffer = Vec::new();
    loop {
        let Some(head) = read_head(&mut socket, &mut buffer).await else { return };
        let at = std::time::Instant::now();
        let mut trailers = Vec::new();
        let (body, complete) = read_body(&mut socket, &mut buffer, &head, &mut trailers).await;
        let seen = Seen { connection, head, body, complete, trailers, at };
        record.send_modify(|record| record.seen.push(seen.clone()));
        if !complete {
            return;
        }
        match respond(&seen) {
            Reply::Send(bytes) => {
                if socket.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Reply::SendAndClose(bytes) => {
                let _ = socket.write_all(&bytes).await;
                return;
            }
            Reply::SendAndHang(bytes) => {
                let _ = socket.write_all(&bytes).await;
                // Until the other side gives up.
                while matches!(socket.read(&mut [0; 1024]).await, Ok(1..)) {}
                return;
            }
            Reply::Take(act) => return act(socket).await,
        }
    }
}

async fn read_head(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(buffer.drain(..end + 4).collect()).unwrap();
            return Some(head);
        }
        if !more(socket, buffer).await {
            return None;
        }
    }
}

async fn more(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    matches!(socket.read_buf(buffer).await, Ok(1..))
}

/// Panics on a message whose length could be understood in two ways: that is what the proxy is for.
async fn read_body(
    socket: &mut TcpStream,
    buffer: &mut Vec<u8>,
    head: &str,
    trailers: &mut Vec<String>,
) -> (Vec<u8>, bool) {
    let (lengths, codings) = (fields(head, "content-length"), fields(head, "transfer-encoding"));
    assert!(lengths.len() + codings.len() <= 1, "ambiguous: {head}");
    if let Some(length) = lengths.first() {
        assert!(length.bytes().all(|byte| byte.is_ascii_digit()), "{head}");
        let length: usize = length.parse().unwrap();
        while buffer.len() < length {
            if !more(socket, buffer).await {
                return (std::mem::take(buffer), false);
            }
        }
        return (buffer.drain(..length).collect(), true);
    }
    if codings.is_empty() {
        return (Vec::new(), true);
    }
    assert_eq!(codings, ["chunked"], "{head}");
    let mut body = Vec::new();
    loop {
        let Some(line) = read_line(socket, buffer).await else { return (body, false) };
        let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("chunk size {line:?}"));
        if size == 0 {
            loop {
                match read_line(socket, buffer).await {
                    Some(line) if line.is_empty() => return (body, true),
                    Some(line) => trailers.push(line),
                    None => return (body, false),
                }
            }
        }
        while buffer.len() < size + 2 {
            if !more(socket, buffer).await {
                return (body, false);
            }
        }
        body.extend(buffer.drain(..size));
        assert_eq!(buffer.drain(..2).collect::<Vec<_>>(), b"\r\n");
    }
}

async fn read_line(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(2).position(|window| window == b"\r\n") {
            let line = String::from_utf8(buffer.drain(..end + 2).collect()).unwrap();
            return Some(line.trim_end().to_owned());
        }
        if !more(socket, buffer).await {
            return None;
        }
    }
}

/// Shared by closures that answer differently the second time.
pub fn counter() -> impl Fn() -> usize + Send + Sync {
    let count = Mutex::new(0);
    move || {
        let mut count = count.lock().unwrap();
        *count += 1;
        *count
    }
}
