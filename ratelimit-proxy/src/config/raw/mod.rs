//! The language: every section, field and word of a configuration, with what it means. Its comments are what the
//! schema says.

mod limit;
mod otlp;
mod response;
mod store;
mod upstream;

use std::net::SocketAddr;

use http::HeaderName;
use ratelimit_core::Rate;

use super::decode::{Either, Items, Many, choice, section};
use super::leaf::{Lasting, Net, OrOff, Size, Text, Whole};
use super::short::Short;
use crate::upstream::Target;

pub(super) use self::limit::*;
pub(super) use self::otlp::*;
pub(super) use self::response::*;
pub(super) use self::store::*;
pub(super) use self::upstream::*;

type Count = Whole<0, { u32::MAX }>;
type Positive = Whole<1, { u32::MAX }>;

section! {
    /// A configuration of ratelimit-proxy.
    Root {
        /// Where clients connect; 0.0.0.0:8080 if absent.
        listen: Many<Either<SocketAddr, Listener>>,
        /// Where operators connect: health, metrics, limits. 127.0.0.1:9090 if absent; off for none.
        admin: Either<OrOff<SocketAddr>, Admin>,
        /// Where requests go; short for one entry of `upstreams`.
        upstream: Target,
        /// Where requests go; the first that matches.
        upstreams: Items<Upstream>,
        /// Name servers that are asked where upstreams are, such as 10.0.0.53:53; the system's if absent.
        dns: Many<SocketAddr>,
        /// Where counters live; memory if absent.
        store: Either<StoreWord, Store>,
        /// How the client's address is found; the peer's if absent.
        client_ip: ClientIp,
        /// Requests that are never limited and never counted.
        exempt: Items<Match>,
        /// The limits: each a section, or short: 5/min by client.ip on POST /login.
        limits: Items<Either<Short, Limit>>,
        /// What a client sees.
        response: Response,
        /// What is logged about requests.
        log: Log,
        /// Threads, connections and time limits of the proxy itself.
        server: Server,
        /// Whose tokens are believed.
        jwt: Jwt,
        /// Envoy's rate-limit service over gRPC.
        rls: Either<SocketAddr, Rls>,
        /// Where traces, metrics and lines of the log are sent to as OTLP: the URL of a collector, or a section; nowhere
        /// if absent.
        otlp: Either<Text, Otlp>,
    }
}

section! {
    /// Where clients connect.
    Listener {
        /// IP address and port.
        address: SocketAddr [required],
        /// Certificate and key; several are chosen by the name that a client asks for, the first where none fits.
        tls: Many<ListenTls>,
        /// Whether each connection begins with a PROXY header, version 1 or 2.
        proxy_protocol: ProxyProtocol,
    }
}

section! {
    /// Certificate and key of a listener. The files are read again when they change.
    ListenTls {
        /// File with the certificate chain in PEM.
        cert: Text [required],
        /// File with its private key in PEM.
        key: Text [required],
        /// File with the authorities in PEM, one of which must have signed a client's certificate; without it clients
        /// need none.
        client_ca: Text,
    }
}

choice! {
    /// Whether each connection begins with a PROXY header.
    ProxyProtocol {
        /// It does not.
        Off = "off",
        /// It does.
        Required = "required",
    }
}

section! {
    /// Where operators connect.
    Admin {
        /// IP address and port.
        listen: SocketAddr [required],
        /// The variable with the token that changes need; without one they are made over loopback only.
        token_env: Text,
        /// File that keeps overrides which were given at run time; they end with the process, or live in the shared
        /// store, if absent.
        overrides_file: Text,
    }
}

section! {
    /// Whose tokens are believed: one of issuer, jwks_url, jwks_file, secret_env and public_key_file.
    Jwt {
        /// Their issuer, whose keys are found by OpenID Connect Discovery; iss must be it.
        issuer: Text,
        /// URL of a JSON Web Key Set.
        jwks_url: Text,
        /// File with a JSON Web Key Set, followed as it changes.
        jwks_file: Text,
        /// The variable with the secret shared with the issuer, at least 32 bytes.
        secret_env: Text,
        /// File with a public key in PEM, followed as it changes.
        public_key_file: Text,
        /// What aud must be, or one of it; anything if absent.
        audience: Many<Text>,
        /// How far the clocks of the issuer and of this machine may be apart; 30s if absent.
        leeway: Lasting,
        /// Whether a token must be bound to the client's certificate (RFC 8705).
        bound: bool,
    }
}

section! {
    /// Envoy's rate-limit service over gRPC.
    Rls {
        /// IP address and port.
        listen: SocketAddr [required],
        /// Certificate and key; several are chosen by the name that a client asks for, the first where none fits.
        tls: Many<ListenTls>,
        /// Longest a decision may wait for the store where the caller does not say; 15ms if absent.
        deadline: Lasting,
        /// How long a connection lives before the caller is asked to make another; 30min if absent.
        max_connection_age: Lasting,
        /// The highest quota that a descriptor may bring along; any if absent.
        max_override: Rate,
    }
}

section! {
    /// How the client's address is found.
    ClientIp {
        /// Networks of proxies whose word is taken; none if absent.
        trusted_proxies: Items<Net>,
        /// The field that carries the address; x-forwarded-for if absent.
        header: HeaderName,
        /// Instead of trusted_proxies: how many proxies stand in front.
        hops: Whole<1, 255>,
        /// An IPv6 client is its network of that many bits; 64 if absent.
        ipv6_prefix: Whole<48, 128>,
    }
}

section! {
    /// Threads, connections and time limits of the proxy itself.
    Server {
        /// Worker threads; as many as there are processors if absent.
        threads: Whole<1, 1024>,
        /// Most connections at a time; 10000 if absent.
        max_connections: Positive,
        /// Most connections of one client at a time; no bound of its own if absent. What is more is closed. Proxies that
        /// are trusted may have as many as they like.
        max_connections_per_client: Positive,
        /// How fast one client may make connections, such as 50/s; as fast as it likes if absent.
        new_connections_per_client: Rate,
        /// How long a connection of HTTP/2 lives before its client is told to make another, up to a tenth more; 1h if absent.
        max_connection_age: Lasting,
        /// Memory in use from which new requests are answered 503, such as 512MiB; no bound if absent. Counters are not
        /// dropped, so leave more room than they need.
        max_memory: Size,
        /// How long requests under way may take to finish when the process is told to stop; 30s if absent.
        drain: Lasting,
        /// How long to wait for clients.
        timeouts: Timeouts,
    }
}

section! {
    /// How long to wait for clients.
    Timeouts {
        /// For the head of a request; 10s if absent.
        head: Lasting,
        /// For the next request on a connection; 75s if absent.
        idle: Lasting,
        /// For the next piece of a request's body; 30s if absent.
        body: Lasting,
        /// For the client to read some of what was written to it; 30s if absent.
        write: Lasting,
    }
}
