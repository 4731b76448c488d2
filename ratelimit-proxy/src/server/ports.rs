//! Where clients connect: [`Port`], and all of them, which a reload may change ([`Ports`]).
//!
//! Each thread has a socket of its own on each address (`SO_REUSEPORT`) and nobody else holds it, so that it is closed
//! when that thread has taken the last connection from its queue. A port that stays where it is under another
//! configuration keeps its sockets.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

use super::tls::Tls;
use crate::config::Listener;

/// Connections the kernel holds for us while we are busy.
const BACKLOG: i32 = 4096;

/// An address that is listened on, and what connections there begin with.
pub(super) struct Port {
    /// Where it is: a free port was asked for as port 0.
    pub(super) address: SocketAddr,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) proxy_protocol: bool,
    /// As it is configured.
    wanted: Listener,
    /// One for each thread, until it is taken.
    sockets: Mutex<Vec<Option<TcpListener>>>,
}

impl Port {
    /// Listens, for that many threads.
    fn bind(wanted: &Listener, threads: usize) -> io::Result<Self> {
        let mut address = wanted.address;
        let mut sockets = Vec::with_capacity(threads);
        refuse_if_taken(address)?;
        for number in 0..threads {
            let socket = listen(address).map_err(|error| cannot_listen(address, &error))?;
            if number == 0 {
                address = socket.local_addr()?;
            }
            sockets.push(Some(socket));
        }
        Self::at(address, wanted, sockets)
    }

    /// The same place under another configuration. Threads have its sockets; those that are not taken yet come along.
    fn again(&self, wanted: &Listener) -> io::Result<Self> {
        let left = |socket: &Option<TcpListener>| socket.as_ref().map(TcpListener::try_clone).transpose();
        let sockets: Result<_, _> = self.sockets().iter().map(left).collect();
        Self::at(self.address, wanted, sockets?)
    }

    fn at(address: SocketAddr, wanted: &Listener, sockets: Vec<Option<TcpListener>>) -> io::Result<Self> {
        let tls = wanted.tls.as_ref().map(Tls::load).transpose().map_err(io::Error::other)?;
        let (wanted, proxy_protocol) = (wanted.clone(), wanted.proxy_protocol);
        Ok(Self { address, tls, proxy_protocol, wanted, sockets: Mutex::new(sockets) })
    }

    /// The socket of that thread, once.
    pub(super) fn take(&self, thread: usize) -> Option<TcpListener> {
        self.sockets().get_mut(thread)?.take()
    }

    fn sockets(&self) -> MutexGuard<'_, Vec<Option<TcpListener>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All ports, for every thread to follow.
pub(crate) struct Ports {
    current: watch::Sender<Vec<Arc<Port>>>,
    threads: usize,
}

impl Ports {
    /// Listens everywhere, for that many threads.
    ///
    /// # Errors
    /// When an address can't be listened on, or its certificates can't be used.
    pub(super) fn bind(wanted: &[Listener], threads: usize) -> io::Result<Arc<Self>> {
        let threads = threads.max(1);
        let ports: Result<_, _> =
            wanted.iter().map(|wanted| Port::bind(wanted, threads).map(Arc::new)).collect();
        Ok(Arc::new(Self { current: watch::Sender::new(ports?), threads }))
    }

    /// Listens there from now on, and nowhere else. What stays is not touched, and connections that are there live on.
    ///
    /// # Errors
    /// When it can't be, and then nothing changes.
    pub(crate) fn replace(&self, wanted: &[Listener]) -> io::Result<()> {
        let mut left = self.current.borrow().clone();
        let mut take = |same: &dyn Fn(&Port) -> bool| {
            let place = left.iter().position(|port| same(port))?;
            Some(left.swap_remove(place))
        };
        let mut ports = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let port = match take(&|port| port.wanted == *wanted) {
                Some(port) => port,
                None => Arc::new(match take(&|port| port.wanted.address == wanted.address) {
                    Some(port) => port.again(wanted)?,
                    None => Port::bind(wanted, self.threads)?,
                }),
            };
            ports.push(port);
        }
        self.current.send_replace(ports);
        Ok(())
    }

    /// Where they are.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.current.borrow().iter().map(|port| port.address).collect()
    }

    /// As URLs.
    pub(crate) fn urls(&self) -> Vec<String> {
        let url = |port: &Arc<Port>| {
            let scheme = if port.tls.is_some() { "https" } else { "http" };
            format!("{scheme}://{}", port.address)
        };
        self.current.borrow().iter().map(url).collect()
    }

    /// How many threads there are sockets for.
    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// For a thread to follow.
    pub(super) fn subscribe(&self) -> watch::Receiver<Vec<Arc<Port>>> {
        self.current.subscribe()
    }

    /// The certificates of those that have some.
    pub(crate) fn tls(&self) -> Vec<Arc<Tls>> {
        self.current.borrow().iter().filter_map(|port| port.tls.clone()).collect()
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Our threads share an address (`SO_REUSEPORT`), so another proxy of the same user could listen there without
/// an error, and each would get a share of the connections. An ordinary listener is refused instead.
fn refuse_if_taken(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    TcpListener::bind(address).map(drop).map_err(|error| cannot_listen(address, &error))
}

/// The error, with the address.
pub(crate) fn cannot_listen(address: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("can't listen on {address}: {error}"))
}
