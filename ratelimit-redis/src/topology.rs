//! Where the store is and how it is reached: one server, a Cluster, or a master that Sentinels name.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ratelimit_core::{StoreError, StoreErrorKind};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisError, TlsCertificates,
};

use crate::connection::Line;
use crate::nodes::{Address, Nodes};
use crate::redirect::ClusterLine;

/// A silent peer is noticed by the kernel after this, even if nothing else notices.
const USER_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Longest wait for a connection, names, TLS and password included.
pub(crate) const CONNECT: Duration = Duration::from_secs(2);

/// Servers and secrets, as they were configured. Files are read whenever a connection is made, so that they
/// can be changed.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    pub(crate) nodes: Vec<ConnectionInfo>,
    /// Name of the master that the nodes, being Sentinels, are asked for.
    pub(crate) sentinel_master: Option<String>,
    pub(crate) username: Option<String>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) tls: Tls,
    /// The master that Sentinels named last, for when none of them answers.
    last_master: Arc<Mutex<Option<Client>>>,
    /// What is known of the Cluster, if it is one.
    pub(crate) cluster: Arc<Nodes>,
}

/// Files in PEM format.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    /// Trusted instead of the system's authorities.
    pub(crate) authority: Option<PathBuf>,
    /// Certificate and key that this client shows.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

impl Topology {
    /// From URLs: one is a server (a Cluster if it says so), several are nodes of a Cluster.
    pub(crate) fn of<T: IntoConnectionInfo>(urls: impl IntoIterator<Item = T>) -> Result<Self, StoreError> {
        let nodes: Result<Vec<_>, _> =
            urls.into_iter().map(IntoConnectionInfo::into_connection_info).collect();
        let nodes = nodes.map_err(|error| misconfigured("the store's address can't be read", error))?;
        if nodes.is_empty() {
            return Err(StoreError::new(StoreErrorKind::Misconfigured, "no address of the store was given"));
        }
        Ok(Self {
            nodes,
            sentinel_master: None,
            username: None,
            password_file: None,
            tls: Tls::default(),
            last_master: Arc::default(),
            cluster: Arc::default(),
        })
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.nodes.len() > 1 && self.sentinel_master.is_none()
    }

    /// Makes a connection; in a Cluster to the node that serves the slot.
    pub(crate) async fn open(&self, slot: u16, deadline: Duration) -> Result<Line, RedisError> {
        if self.nodes.iter().any(|node| matches!(node.addr(), ConnectionAddr::TcpTls { .. })) {
            // Where the program has chosen its cryptography already, that is used.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        if let Some(master) = &self.sentinel_master {
            let password = self.password().await?;
            return self.open_by_sentinel(master, password, deadline).await;
        }
        if self.is_cluster() {
            return ClusterLine::open(slot, self, deadline).await.map(Line::Cluster);
        }
        let Some(node) = self.nodes.first() else {
            return Err((redis::ErrorKind::InvalidClientConfig, "no address").into());
        };
        self.open_one(node.clone(), deadline).await.map(Line::Single)
    }

    /// Makes a connection to a node of the Cluster, with the secrets and the encryption of the first that was
    /// configured.
    pub(crate) async fn open_node(
        &self,
        (host, port): &Address,
        deadline: Duration,
    ) -> Result<MultiplexedConnection, RedisError> {
        let Some(first) = self.nodes.first() else {
            return Err((redis::ErrorKind::InvalidClientConfig, "no address").into());
        };
        let address = match first.addr().clone() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure, tls_params }
            }
            _ => ConnectionAddr::Tcp(host.clone(), *port),
        };
        self.open_one(first.clone().set_addr(address), deadline).await
    }

    /// The nodes that were configured.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.nodes.iter().filter_map(|node| match node.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Some((host.clone(), *port))
            }
            _ => None,
        })
    }

    async fn open_one(
        &self,
        node: ConnectionInfo,
        deadline: Duration,
    ) -> Result<MultiplexedConnection, RedisError> {
        let node = self.with_secrets(node, self.password().await?);
        let client = match self.certificates().await? {
            Some(certificates) => Client::build_with_tls(node, certificates)?,
            None => Client::open(node)?,
        };
        client.get_multiplexed_async_connection_with_config(&config(deadline)).await
    }

    async fn open_by_sentinel(
        &self,
        master: &str,
        password: Option<String>,
        deadline: Duration,
    ) -> Result<Line, RedisError> {
        let sentinels: Vec<ConnectionAddr> = self.nodes.iter().map(|node| node.addr().clone()).collect();
        let mut builder = SentinelClientBuilder::new(sentinels, master, SentinelServerType::Master)?
            .set_client_to_redis_tcp_settings(tcp())
            .set_client_to_sentinel_tcp_settings(tcp());
        let first = self.nodes.first().map(|node| self.with_secrets(node.clone(), password));
        if let Some(settings) = first.as_ref().map(ConnectionInfo::redis_settings) {
            builder = builder.set_client_to_redis_db(settings.db());
            if let Some(name) = settings.username() {
                builder = builder.set_client_to_redis_username(name);
            }
            if let Some(password) = settings.password() {
                builder = builder.set_client_to_redis_password(password);
            }
        }
        let tls = first.is_some_and(|node| matches!(node.addr(), ConnectionAddr::TcpTls { .. }));
        if tls {
            builder = builder.set_client_to_redis_tls_mode(redis::TlsMode::Secure);
        }
        if let Some(certificates) = self.certificates().await? {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
        let mut client = builder.build()?;
        let client = match client.async_get_client().await {
            Ok(client) => client,
            // Without Sentinels there is no failover either. A master that is none any more can't be written to,
            // which is noticed before it is used.
            Err(error) => match self.last_master().clone() {
                Some(client) => client,
                None => return Err(error),
            },
        };
        let connection = client.get_multiplexed_async_connection_with_config(&config(deadline)).await?;
        *self.last_master() = Some(client);
        Ok(Line::Single(connection))
    }

    fn last_master(&self) -> MutexGuard<'_, Option<Client>> {
        self.last_master.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_secrets(&self, node: ConnectionInfo, password: Option<String>) -> ConnectionInfo {
        let mut settings = node.redis_settings().clone().set_lib_name("ratelimit", env!("CARGO_PKG_VERSION"));
        if let Some(name) = &self.username {
            settings = settings.set_username(name);
        }
        if let Some(password) = password {
            settings = settings.set_password(password);
        }
        node.set_redis_settings(settings).set_tcp_settings(tcp())
    }

    async fn password(&self) -> Result<Option<String>, RedisError> {
        let Some(path) = &self.password_file else { return Ok(None) };
        let text = tokio::fs::read_to_string(path).await?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    async fn certificates(&self) -> Result<Option<TlsCertificates>, RedisError> {
        let Tls { authority, identity } = &self.tls;
        if authority.is_none() && identity.is_none() {
            return Ok(None);
        }
        let root_cert = match authority {
            Some(path) => Some(tokio::fs::read(path).await?),
            None => None,
        };
        let client_tls = match identity {
            Some((certificate, key)) => Some(ClientTlsConfig {
                client_cert: tokio::fs::read(certificate).await?,
                client_key: tokio::fs::read(key).await?,
            }),
            None => None,
        };
        Ok(Some(TlsCertificates { client_tls, root_cert }))
    }
}

fn config(deadline: Duration) -> AsyncConnectionConfig {
    // Every call has a deadline of its own around it; this one only frees the place of an answer that never came.
    AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(deadline))
}

fn tcp() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(USER_TIMEOUT);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(USER_TIMEOUT);
    settings
}

fn misconfigured(what: &'static str, error: RedisError) -> StoreError {
    StoreError::new(StoreErrorKind::Misconfigured, what).with_source(error)
}
