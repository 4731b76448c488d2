//! What comes before the first request of a connection: a PROXY header, a TLS handshake, and the bytes that tell which
//! HTTP it is. All of it together has as long as the head of a request.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::crowd::Guest;
use super::ports::Port;
use super::tls::Session;
use crate::socket::Stream;
use crate::state::{Place, Worker};
use crate::telemetry::metrics::{Pressure, ProtocolError};

/// With what a client says that it speaks HTTP/2 and knows that we do (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest PROXY header: an address needs 52 bytes, and what is told beside it is not for us.
const MAX_HEADER: usize = 4096;

/// Room for one read: the head of most requests.
const READ: usize = 2048;

/// A connection on which requests can come.
pub(super) struct Opened {
    pub(super) stream: Opening,
    /// Whose it is.
    pub(super) peer: IpAddr,
    /// Its place among those of its client.
    pub(super) guest: Guest,
}

/// What it runs over, and what it speaks.
pub(super) enum Opening {
    Plain { stream: Rewound, http2: bool },
    Tls { stream: Box<TlsStream<Rewound>>, session: Session },
}

/// Opens a connection from `peer`; `None` if it ended before anything came.
///
/// # Errors
/// What the client did wrong.
pub(super) async fn open(
    port: &Port,
    place: &Place,
    tcp: TcpStream,
    peer: SocketAddr,
) -> Result<Option<Opened>, ProtocolError> {
    let mut peer = peer.ip();
    let mut guest = if port.proxy_protocol { Some(Guest::UNCOUNTED) } else { admit(place.worker(), peer) };
    let mut first = Vec::new();
    if guest.is_none() || !begins(place, &tcp, &mut first).await {
        return Ok(None);
    }
    if port.proxy_protocol {
        peer = introduced(&tcp, &mut first).await.map_err(|_| ProtocolError::Proxy)?.unwrap_or(peer);
        guest = admit(place.worker(), peer);
    }
    let Some(guest) = guest else { return Ok(None) };
    let Some(tls) = &port.tls else {
        let http2 = is_http2(&tcp, &mut first).await.map_err(|_| ProtocolError::Other)?;
        let stream = Rewound { first: first.into(), tcp };
        return Ok(Some(Opened { stream: Opening::Plain { stream, http2 }, peer, guest }));
    };
    match tls.accept(Rewound { first: first.into(), tcp }).await {
        Ok((stream, session)) => {
            Ok(Some(Opened { stream: Opening::Tls { stream: Box::new(stream), session }, peer, guest }))
        }
        Err(error) => {
            tracing::debug!(%error, %peer, "no TLS");
            Err(ProtocolError::Tls)
        }
    }
}

/// Lets a client's connection in, if it has not too many.
fn admit(worker: &Worker, peer: IpAddr) -> Option<Guest> {
    let rules = worker.rules();
    if rules.policy.trusts(peer.to_canonical()) {
        return Some(Guest::UNCOUNTED);
    }
    let guest = Guest::of(&worker.shared, rules.policy.network(peer));
    if guest.is_none() {
        worker.metrics.pressure(Pressure::Crowded);
    }
    guest
}

/// Waits for the first bytes. There are none to come if the client goes, or if the proxy drains before it speaks.
async fn begins(place: &Place, tcp: &TcpStream, first: &mut Vec<u8>) -> bool {
    poll_fn(|cx| {
        place.register(cx.waker());
        match poll_more(tcp, first, cx) {
            Poll::Ready(read) => Poll::Ready(matches!(read, Ok(1..))),
            Poll::Pending if place.worker().is_draining() => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Takes a PROXY header off the front, and says whose connection it is: `None` if it is that of who sent the header.
async fn introduced(tcp: &TcpStream, first: &mut Vec<u8>) -> io::Result<Option<IpAddr>> {
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    loop {
        match ProxyHeader::parse(first, config) {
            Ok((header, length)) => {
                let source = header.proxied_address().map(|address| address.source.ip());
                first.drain(..length.min(first.len()));
                return Ok(source);
            }
            Err(proxy_header::Error::BufferTooShort) if first.len() < MAX_HEADER => {
                more(tcp, first).await?;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

/// Whether it is HTTP/2, as soon as that can be told.
async fn is_http2(tcp: &TcpStream, first: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        if first.starts_with(PREFACE) {
            return Ok(true);
        }
        if !PREFACE.starts_with(first) {
            return Ok(false);
        }
        more(tcp, first).await?;
    }
}

async fn more(tcp: &TcpStream, first: &mut Vec<u8>) -> io::Result<()> {
    match poll_fn(|cx| poll_more(tcp, first, cx)).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn poll_more(tcp: &TcpStream, first: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut buffer = [0; READ];
    loop {
        ready!(tcp.poll_read_ready(cx))?;
        match tcp.try_read(&mut buffer) {
            Ok(length) => {
                first.extend_from_slice(buffer.get(..length).unwrap_or_default());
                return Poll::Ready(Ok(length));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// A connection of which some bytes have been read, which are read again first.
pub(crate) struct Rewound {
    first: Bytes,
    tcp: TcpStream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.tcp).poll_read(cx, buf);
        }
        let length = self.first.len().min(buf.remaining());
        buf.put_slice(self.first.get(..length).unwrap_or_default());
        self.first.advance(length);
        if self.first.is_empty() {
            // Gives the memory back.
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl Stream for Rewound {
    fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
}

impl Stream for TlsStream<Rewound> {
    fn tcp(&self) -> &TcpStream {
        &self.get_ref().0.tcp
    }
}
