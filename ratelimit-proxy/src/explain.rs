//! What the limits make of one request, without serving it: for the command and for the administration, which ask in
//! different ways and are told the same.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use ratelimit_core::{KeyBuf, Limit};
use ratelimit_redis::lease::{HeldBack, what_may_lie_elsewhere};

use crate::config::RedisConfig;
use crate::exchange::admit;
use crate::facts::{Descriptor, Facts};
use crate::fault::Fault;
use crate::identity::token::{LazyClaims, TokenVerifier};
use crate::policy::{Explanation, Leases, Policy};

/// Replicas that are assumed where the configuration does not say how many there are.
const REPLICAS: u32 = 4;

/// A request as it would come over the wire.
#[derive(Debug)]
pub(crate) struct Question {
    request: Request<()>,
    /// Where its connection comes from.
    client: IpAddr,
    /// The subject of the certificate that it shows.
    tls_client: Option<String>,
}

impl Question {
    /// A request for a path, or a URL; the text says what is wrong with it.
    pub(crate) fn new(
        method: &str,
        target: &str,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        client: IpAddr,
    ) -> Result<Self, String> {
        let method: Method = method.parse().map_err(|_| format!("{method:?} is not a method"))?;
        let target: Uri =
            target.trim().parse().map_err(|_| format!("{target:?} is neither a path nor a URL"))?;
        let mut request = Request::new(());
        *request.version_mut() = Version::HTTP_11;
        *request.method_mut() = method;
        *request.uri_mut() = target;
        let fields: &mut HeaderMap = request.headers_mut();
        for (name, value) in headers {
            fields.append(name, value);
        }
        if !request.headers().contains_key(header::HOST) {
            // HTTP/1.1 asks for one; who wants to match it gives it.
            *request.version_mut() = Version::HTTP_10;
        }
        Ok(Self { request, client, tls_client: None })
    }

    /// From a client that shows a certificate with that subject.
    pub(crate) fn with_certificate(self, subject: Option<String>) -> Self {
        Self { tls_client: subject, ..self }
    }

    /// What the limits make of it; the fault is what the proxy would answer with instead.
    pub(crate) fn explain(
        self,
        policy: &Policy,
        tokens: Option<&TokenVerifier>,
        redis: Option<&RedisConfig>,
    ) -> Result<Explanation, Fault> {
        let head = self.request.into_parts().0;
        let inbound = admit(&head, policy.path_scoped())?;
        let peer = self.client.to_canonical();
        let claims = tokens.map(|tokens| LazyClaims::new(tokens, &head.headers, None));
        let facts = Facts {
            claims: claims.as_ref(),
            tls_client: self.tls_client.as_deref(),
            ..inbound.facts(&head, policy, peer)
        };
        Ok(told(policy, &facts, redis))
    }
}

/// What the limits make of a question of Envoy's.
pub(crate) fn explain_asked(
    descriptor: &Descriptor<'_>,
    policy: &Policy,
    redis: Option<&RedisConfig>,
) -> Explanation {
    told(policy, &Facts::asked(descriptor, &HeaderMap::new()), redis)
}

fn told(policy: &Policy, facts: &Facts<'_>, redis: Option<&RedisConfig>) -> Explanation {
    let mut explanation = policy.explain(facts, &mut KeyBuf::new());
    if let Some(redis) = redis {
        for explained in &mut explanation.limits {
            explained.leases = explained.in_force.as_ref().and_then(|limit| leases(redis, limit));
        }
    }
    explanation
}

/// What leases may hold back of a limit, if there are any for it.
fn leases(redis: &RedisConfig, limit: &Limit) -> Option<Leases> {
    let replicas = redis.replicas.unwrap_or(REPLICAS);
    let HeldBack { units, capacity, lasts, .. } =
        what_may_lie_elsewhere(limit, replicas, redis.leases.as_ref()?)?;
    // A refill interval that is no whole number of microseconds adds a few of them to a second.
    let milliseconds = lasts.get().saturating_add(500_000) / 1_000_000;
    Some(Leases { replicas, units, capacity, milliseconds })
}
