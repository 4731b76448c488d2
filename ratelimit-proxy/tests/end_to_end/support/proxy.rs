//! A proxy with the configuration a test asks for.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ratelimit_core::Limit;
use ratelimit_proxy::config::{
    ClientIp, Config, LimitConfig, Listener, Loaded, LogRequests, Match, load_str,
};
use ratelimit_proxy::identity::token::JwtConfig;
use ratelimit_proxy::server::{Drained, Listeners, Server};
use ratelimit_proxy::{Answers, AnyStore, Shared, Timeouts};

/// What a proxy is started with.
pub struct Setup {
    pub limits: Vec<LimitConfig>,
    pub exempt: Vec<Match>,
    pub client_ip: ClientIp,
    pub timeouts: Timeouts,
    pub answers: Answers,
    pub threads: usize,
    pub max_connections: usize,
    pub max_connections_per_client: Option<u32>,
    pub store: AnyStore,
    pub jwt: Option<JwtConfig>,
    /// Plain on a free port unless said otherwise.
    pub listen: Option<Listener>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Vec::new(),
            exempt: Vec::new(),
            client_ip: ClientIp::default(),
            timeouts: Timeouts::default(),
            answers: Answers::default(),
            threads: 1,
            max_connections: 1000,
            max_connections_per_client: None,
            store: AnyStore::default(),
            jwt: None,
            listen: None,
        }
    }
}

impl Setup {
    /// With these limits on everything, by client address.
    pub fn limits(limits: impl IntoIterator<Item = Limit>) -> Self {
        Self::rules(limits.into_iter().map(LimitConfig::by_client))
    }

    /// With these limits.
    pub fn rules(limits: impl IntoIterator<Item = LimitConfig>) -> Self {
        Self { limits: limits.into_iter().collect(), ..Self::default() }
    }

    /// With what a configuration says about who is limited by what; `SECRET` of its environment is the
    /// [shared secret](super::tokens::SECRET).
    pub fn yaml(limits: &str) -> Self {
        let env = |name: &str| {
            (name == "SECRET").then(|| String::from_utf8(super::tokens::SECRET.to_vec()).unwrap())
        };
        let text = format!("upstream: http://127.0.0.1:1\n{limits}");
        let loaded = load_str(&text, "test.yaml", &env, std::path::Path::new(""));
        let config = loaded
            .unwrap_or_else(|faults| {
                panic!("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
            })
            .config;
        Self {
            limits: config.limits,
            exempt: config.exempt,
            client_ip: config.client_ip,
            jwt: config.jwt,
            ..Self::default()
        }
    }

    /// With other timeouts.
    pub fn timeouts(change: impl FnOnce(&mut Timeouts)) -> Self {
        let mut setup = Self::default();
        change(&mut setup.timeouts);
        setup
    }

    /// As a configuration.
    pub fn config(&self, upstream: SocketAddr) -> Config {
        let mut config = Config::new(format!("http://{upstream}").parse().unwrap());
        config.client_ip = self.client_ip.clone();
        config.exempt = self.exempt.clone();
        config.limits = self.limits.clone();
        config.answers = self.answers.clone();
        config.log.requests = LogRequests::Off;
        config.server.timeouts = self.timeouts;
        config.server.max_connections = self.max_connections;
        config.server.max_connections_per_client = self.max_connections_per_client;
        config
    }

    /// Starts it in front of that upstream.
    pub fn start(self, upstream: SocketAddr) -> Proxy {
        let config = self.config(upstream);
        let shared = Shared::new(&config, self.store);
        self.jwt.into_iter().for_each(|jwt| shared.verify_tokens(jwt).unwrap());
        Proxy::serve(Arc::new(shared), self.threads, self.listen)
    }
}

/// What a configuration says, in front of that upstream. Files that it names are sought in `tests/config`.
pub fn load(yaml: &str, upstream: SocketAddr) -> Loaded {
    let text = format!("upstream: http://{upstream}\n{yaml}");
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/end_to_end/config");
    load_str(&text, "test.yaml", &|_| None, &base).unwrap_or_else(|faults| {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        panic!("{}\n{text}", faults.join("\n"))
    })
}

/// A running proxy; stops when dropped.
pub struct Proxy {
    pub address: SocketAddr,
    pub shared: Arc<Shared>,
    server: Option<Server>,
}

impl Proxy {
    /// Without limits.
    pub fn plain(upstream: SocketAddr) -> Self {
        Setup::default().start(upstream)
    }

    /// As a configuration says, in front of that upstream, with one thread.
    pub fn from_yaml(yaml: &str, upstream: SocketAddr) -> Self {
        Self::serve(Arc::new(Shared::new(&load(yaml, upstream).config, AnyStore::default())), 1, None)
    }

    /// As a whole configuration says, with one thread.
    pub fn of(yaml: &str) -> Self {
        Self::changed(yaml, |_| {})
    }

    /// The same, changed in ways that can't be written.
    pub fn changed(yaml: &str, change: impl FnOnce(&mut Config)) -> Self {
        let loaded = load_str(yaml, "test.yaml", &|_| None, Path::new(""));
        let loaded = loaded.unwrap_or_else(|faults| {
            let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
            panic!("{}\n{yaml}", faults.join("\n"))
        });
        let mut config = loaded.config;
        config.log.requests = LogRequests::Off;
        change(&mut config);
        Self::serve(Arc::new(Shared::new(&config, AnyStore::default())), 1, None)
    }

    fn serve(shared: Arc<Shared>, threads: usize, listen: Option<Listener>) -> Self {
        let listen = listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)).into());
        let listeners = Listeners::bind(&[listen], threads).unwrap();
        shared.watch_upstreams().unwrap();
        let server = Server::start(&shared, listeners).unwrap();
        Self { address: server.addresses()[0], shared, server: Some(server) }
    }

    /// The server, to be drained or closed by the test.
    pub fn take(&mut self) -> Server {
        self.server.take().unwrap()
    }

    /// Drains it.
    pub async fn drain(&mut self, deadline: Duration) -> Drained {
        self.take().drain(deadline).await.unwrap()
    }
}
