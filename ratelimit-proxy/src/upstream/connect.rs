//! Connecting to a server: TCP, TLS where its URL says so, and which protocol is spoken then.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::server::Server;
use super::socket::Socket;
use super::target::Scheme;

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Unconnected {
    /// Nobody is there, or does not want to be.
    Unreachable(io::Error),
    /// Who is there can't prove to be the server, or speaks no TLS.
    Untrusted(io::Error),
}

/// A connection to that server.
pub(super) async fn connect(server: &Server) -> Result<(Socket, Protocol), Unconnected> {
    let found = async {
        match &server.name {
            Some(name) => name.found().await,
            None => Err(io::ErrorKind::NotFound.into()),
        }
    };
    let socket = server.target.connect(found).await.map_err(Unconnected::Unreachable)?;
    match (server.target.scheme(), &server.tls) {
        (Scheme::Https, Some(tls)) => {
            let name = match &tls.name {
                Some(name) => name.clone(),
                None => server.target.name().map_err(Unconnected::Untrusted)?,
            };
            secure(socket, Arc::clone(&tls.config), name).await
        }
        (Scheme::Https, None) => Err(Unconnected::Untrusted(io::ErrorKind::Unsupported.into())),
        (Scheme::Http, _) => Ok((Socket::Plain(socket), Protocol::Http1)),
        (Scheme::H2c, _) => Ok((Socket::Plain(socket), Protocol::Http2)),
    }
}

async fn secure(
    socket: TcpStream,
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
) -> Result<(Socket, Protocol), Unconnected> {
    let socket = TlsConnector::from(config).connect(name, socket).await.map_err(Unconnected::Untrusted)?;
    let is_h2 = socket.get_ref().1.alpn_protocol() == Some(b"h2");
    let protocol = if is_h2 { Protocol::Http2 } else { Protocol::Http1 };
    Ok((Socket::Tls(Box::new(socket)), protocol))
}

impl fmt::Display for Unconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "{error}"),
            Self::Untrusted(error) => write!(f, "TLS: {error}"),
        }
    }
}
