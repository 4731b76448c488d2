//! A TCP relay that breaks connections in the ways networks do.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// It passes, this much later in either direction.
    Delay(Duration),
    /// Nothing passes and nothing is closed: a peer that vanished.
    Freeze,
    /// What the client sends passes; answers are swallowed.
    DropAnswers,
    /// Answers pass byte by byte, with a pause after each.
    Drip(Duration),
    /// Connections are reset, and new ones too.
    Cut,
}

/// Stands between a client and a server on this machine. Ends with its last clone of the handle.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    weather: watch::Sender<Weather>,
    accepted: Arc<AtomicU64>,
}

impl Relay {
    /// In front of that port of 127.0.0.1. Needs a runtime around it.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (weather, seen) = watch::channel(Weather::Delay(Duration::ZERO));
        let accepted = Arc::new(AtomicU64::new(0));
        tokio::spawn(accept(listener, (Ipv4Addr::LOCALHOST, server).into(), seen, Arc::clone(&accepted)));
        Self { port, weather, accepted }
    }

    /// The port that clients connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where clients connect.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Connections accepted so far, cut ones too.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Everything passes at once.
    pub fn heal(&self) {
        self.weather.send_replace(Weather::Delay(Duration::ZERO));
    }

    /// Everything takes that much longer in each direction.
    pub fn delay(&self, by: Duration) {
        self.weather.send_replace(Weather::Delay(by));
    }

    /// Nothing passes any more, and nobody is told.
    pub fn freeze(&self) {
        self.weather.send_replace(Weather::Freeze);
    }

    /// Questions pass, answers don't.
    pub fn drop_answers(&self) {
        self.weather.send_replace(Weather::DropAnswers);
    }

    /// Answers come byte by byte.
    pub fn drip(&self, pause: Duration) {
        self.weather.send_replace(Weather::Drip(pause));
    }

    /// Every connection is closed, and new ones as soon as they are made.
    pub fn cut(&self) {
        self.weather.send_replace(Weather::Cut);
    }
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    mut weather: watch::Receiver<Weather>,
    accepted: Arc<AtomicU64>,
) {
    loop {
        let client = tokio::select! {
            client = listener.accept() => client,
            // The handle is gone.
            ended = weather.wait_for(|_| false) => { debug_assert!(ended.is_err()); return }
        };
        let Ok((client, _)) = client else { continue };
        accepted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(relay(client, server, weather.clone()));
    }
}

async fn relay(client: TcpStream, server: SocketAddr, weather: watch::Receiver<Weather>) {
    let mut until_cut = weather.clone();
    let both = async {
        let Ok(server) = TcpStream::connect(server).await else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let there = pass(from_client, to_server, weather.clone(), false);
        let back = pass(from_server, to_client, weather.clone(), true);
        tokio::select! { () = there => {}, () = back => {} }
    };
    tokio::select! { () = both => {}, _ = until_cut.wait_for(|now| *now == Weather::Cut) => {} }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    answers: bool,
) {
    let mut buffer = vec![0; 1 << 16];
    let mut dropped = false;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if weather.wait_for(|now| *now != Weather::Freeze).await.is_err() {
            return;
        }
        let now = *weather.borrow();
        match now {
            Weather::DropAnswers if answers => {
                dropped = true;
                continue;
            }
            // Nothing can be lost in the middle of a stream: the next answer would be taken for the one that is missing.
            _ if dropped => return,
            Weather::Drip(pause) if answers => {
                for byte in &buffer[..count] {
                    tokio::time::sleep(pause).await;
                    if to.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                }
                continue;
            }
            Weather::Delay(by) if !by.is_zero() => tokio::time::sleep(by).await,
            _ => {}
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
