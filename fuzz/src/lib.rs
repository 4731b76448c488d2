//! A whole proxy for targets that talk to it: it listens on a real socket, in front of a server that reads strictly and
//! notes what reaches it. Each client has an address of its own in 127.0.0.0/8, which the proxy writes into
//! X-Forwarded-For; so whatever reaches the server is known to be of the client that sent it.

pub mod strict;

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ratelimit_proxy::config::{Listener, load_str};
use ratelimit_proxy::server::{Listeners, Server};
use ratelimit_proxy::{AnyStore, Shared};
use socket2::{Domain, Socket, Type};

use strict::{Message, Read};

/// A request that reached the server behind the proxy, in full.
pub type Arrived = Message;

#[derive(Default)]
struct Seen {
    requests: HashMap<IpAddr, Vec<Arrived>>,
    /// What broke the grammar.
    malformed: Option<String>,
}

/// The proxy, and what it forwarded.
pub struct Rig {
    pub proxy: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    clients: Mutex<u32>,
    _server: Server,
}

impl Rig {
    /// A proxy with that configuration beside its upstream.
    pub fn start(yaml: &str, proxy_protocol: bool) -> Self {
        let origin = TcpListener::bind("127.0.0.1:0").expect("a port");
        let upstream = origin.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let notes = Arc::clone(&seen);
        std::thread::spawn(move || {
            for connection in origin.incoming().flatten() {
                let notes = Arc::clone(&notes);
                std::thread::spawn(move || serve(connection, &notes));
            }
        });
        let text = format!("upstream: http://{upstream}\nlog: {{requests: off}}\n{yaml}");
        let loaded = load_str(&text, "fuzz.yaml", &|_| None, std::path::Path::new(""));
        let config = loaded
            .unwrap_or_else(|faults| {
                panic!("{:?}", faults.iter().map(ToString::to_string).collect::<Vec<_>>())
            })
            .config;
        let mut listener = Listener::from(SocketAddr::from(([127, 0, 0, 1], 0)));
        listener.proxy_protocol = proxy_protocol;
        let listeners = Listeners::bind(&[listener], 1).expect("a port");
        let server =
            Server::start(&Arc::new(Shared::new(&config, AnyStore::default())), listeners).expect("threads");
        Self { proxy: server.addresses()[0], seen, clients: Mutex::new(0), _server: server }
    }

    /// Sends that from a client of its own and reads until `done` says that nothing more is due, for `patience` at most
    /// (who stops sending has gone away); then to the end. Gives the client's address, and the answer.
    pub fn send(&self, bytes: &[u8], patience: Duration, done: impl Fn(&[u8]) -> bool) -> (IpAddr, Vec<u8>) {
        let number = {
            let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            *clients = (*clients + 1) % 0x00ff_0000;
            *clients + 0x1_0000
        };
        let client = IpAddr::V4(Ipv4Addr::from_bits(0x7f00_0000 | number));
        self.forget(client);
        let answer = exchange(self.proxy, client, bytes, patience, done);
        (client, answer)
    }

    /// Whether the proxy still serves, as it must after whatever was sent.
    pub fn assert_serves(&self, request: &[u8]) {
        let (client, answer) = self.send(request, Duration::from_secs(5), |answer| answer.ends_with(b"ok"));
        assert!(
            answer.starts_with(b"HTTP/1.1 200 "),
            "it does not serve: {:?}",
            String::from_utf8_lossy(&answer)
        );
        assert_eq!(self.arrived(client).len(), 1);
    }

    /// What reached the server of that client's, in full.
    pub fn arrived(&self, client: IpAddr) -> Vec<Arrived> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(seen.malformed.is_none(), "{}", seen.malformed.as_deref().unwrap_or_default());
        seen.requests.get(&client).cloned().unwrap_or_default()
    }

    /// Forgets what reached it.
    pub fn forget(&self, client: IpAddr) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).requests.remove(&client);
    }
}

fn exchange(
    proxy: SocketAddr,
    client: IpAddr,
    bytes: &[u8],
    patience: Duration,
    done: impl Fn(&[u8]) -> bool,
) -> Vec<u8> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let _ = socket.set_reuse_address(true);
    socket.bind(&SocketAddr::from((client, 0)).into()).expect("a loopback address");
    socket.connect(&proxy.into()).expect("the proxy listens");
    let mut stream = TcpStream::from(socket);
    let _ = stream.set_nodelay(true);
    let _ = stream.set_write_timeout(Some(Duration::from_secs(8)));
    let _ = stream.set_read_timeout(Some(patience));
    let _ = stream.write_all(bytes);
    let (mut answer, mut chunk) = (Vec::new(), [0; 16 << 10]);
    while !done(&answer) {
        match stream.read(&mut chunk) {
            Ok(0) => return answer,
            Ok(length) => answer.extend_from_slice(&chunk[..length]),
            Err(_) => break,
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(8)));
    if let Err(error) = stream.read_to_end(&mut answer) {
        let waits = matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
        assert!(!waits, "the connection is not closed although nothing more can come");
    }
    answer
}

/// A server that takes nothing but what the grammar says.
fn serve(mut connection: TcpStream, seen: &Mutex<Seen>) {
    let mut buffer = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        match strict::request(&buffer, strict::Strict::Yes) {
            Read::Whole(request, length) => {
                buffer.drain(..length);
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                match note(&mut seen, request) {
                    Ok(()) => {}
                    Err(wrong) => seen.malformed = Some(wrong),
                }
                drop(seen);
                if connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
                    return;
                }
            }
            Read::More => match connection.read(&mut chunk) {
                Ok(length @ 1..) => buffer.extend_from_slice(&chunk[..length]),
                // A request that is not complete was aborted.
                _ => return,
            },
            Read::Wrong(why) => {
                let text = String::from_utf8_lossy(&buffer).into_owned();
                seen.lock().unwrap_or_else(PoisonError::into_inner).malformed =
                    Some(format!("{why}: {text:?}"));
                return;
            }
        }
    }
}

fn note(seen: &mut Seen, request: Message) -> Result<(), String> {
    let named: Vec<&[u8]> = request.fields("x-forwarded-for");
    let [from] = named[..] else { return Err(format!("not one client is named: {request:?}")) };
    let from = std::str::from_utf8(from).ok().and_then(|from| from.parse().ok());
    let Some(from) = from else { return Err(format!("no client is named: {request:?}")) };
    if request.fields("host").len() != 1 {
        return Err(format!("not one host: {request:?}"));
    }
    if !request.fields("content-length").is_empty() && !request.fields("transfer-encoding").is_empty() {
        return Err(format!("two framings: {request:?}"));
    }
    seen.requests.entry(from).or_default().push(request);
    Ok(())
}
