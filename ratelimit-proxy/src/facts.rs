//! [`Facts`]: what is known of a request when the limits are chosen, whoever asks.
//!
//! Proxied traffic, `explain`, `replay` and every other entrance build the same value, so that they get the
//! same answer. It only borrows.

use std::net::IpAddr;

use http::{HeaderMap, Method};

use crate::identity::token::LazyClaims;

/// What the limits may look at.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'r> {
    /// The method.
    pub method: &'r Method,
    /// Host the request is for, in lower case, without port.
    pub host: &'r str,
    /// The path as [`NormalPath`](crate::path::NormalPath) has it; as it came where no limit looks at paths
    /// ([`Policy::path_scoped`](crate::policy::Policy::path_scoped)).
    pub path: &'r str,
    /// What stands after the `?`, as it came; empty if there is none.
    pub query: &'r str,
    /// The header fields. Twins of those that limits look at ([`Policy::is_twin`](crate::policy::Policy::is_twin))
    /// mean nothing here and must not be forwarded: upstreams that take `_` for `-` would see another value.
    pub headers: &'r HeaderMap,
    /// The client's address: resolved through trusted proxies and canonical, not masked.
    pub client: IpAddr,
    /// What a verified token says, known once somebody asks; `None` where no tokens are verified.
    pub claims: Option<&'r LazyClaims<'r>>,
    /// The subject of the client's verified certificate, as RFC 4514 writes it; `None` if it has none.
    pub tls_client: Option<&'r str>,
}
