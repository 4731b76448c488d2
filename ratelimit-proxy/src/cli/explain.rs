//! `explain`: what the limits make of one request, without serving it.

use http::{HeaderMap, Method, Request, Uri, Version, header};
use ratelimit_core::{KeyBuf, Limit};
use ratelimit_redis::lease::{HeldBack, what_may_lie_elsewhere};

use super::arguments::Explain;
use super::{Exit, Failure, print, run};
use crate::config::{RedisConfig, StoreConfig};
use crate::exchange::admit;
use crate::facts::{Descriptor, Facts};
use crate::identity::token::{JwtConfig, LazyClaims, TokenVerifier};
use crate::policy::{Leases, Policy};
use crate::telemetry::metrics::Metrics;

/// Replicas that are assumed where the configuration does not say how many there are.
const REPLICAS: u32 = 4;

pub(super) fn explain(arguments: &Explain) -> Result<Exit, Failure> {
    let config = run::load(&arguments.config)?.config;
    let policy = Policy::of(&config);
    let tokens = config.jwt.map(verifier).transpose()?;
    if let Some(domain) = &arguments.domain {
        let entries: Vec<_> =
            arguments.descriptor.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let descriptor = Descriptor { domain: domain.as_bytes(), entries: &entries };
        let none = HeaderMap::new();
        return tell(arguments, &config.store, &policy, &Facts::asked(&descriptor, &none));
    }
    let head = request(arguments).map_err(|fault| Failure::Usage(vec![fault]))?.into_parts().0;
    let refused = |fault: crate::Fault| {
        Failure::Usage(vec![format!("the proxy would answer {}: {}", fault.status(), fault.detail())])
    };
    let inbound = admit(&head, policy.path_scoped()).map_err(refused)?;
    let peer = arguments.client.to_canonical();
    let claims = tokens.as_ref().map(|tokens| LazyClaims::new(tokens, &head.headers, None));
    let facts = Facts {
        method: &head.method,
        host: &inbound.host,
        path: inbound.path.as_str(),
        query: inbound.query,
        headers: &head.headers,
        client: policy.client(peer, &head.headers),
        claims: claims.as_ref(),
        descriptor: None,
    };
    tell(arguments, &config.store, &policy, &facts)
}

fn tell(
    arguments: &Explain,
    store: &StoreConfig,
    policy: &Policy,
    facts: &Facts<'_>,
) -> Result<Exit, Failure> {
    let mut explanation = policy.explain(facts, &mut KeyBuf::new());
    if let StoreConfig::Redis(redis) = store {
        for explained in &mut explanation.limits {
            explained.leases = explained.in_force.as_ref().and_then(|limit| leases(redis, limit));
        }
    }
    if arguments.json {
        let json = serde_json::to_string_pretty(&explanation);
        print(json.map_err(|error| Failure::Failed(error.to_string()))?)?;
    } else {
        print(explanation)?;
    }
    Ok(Exit::Fine)
}

/// Someone to verify the request's token. Keys from elsewhere are waited for, as nobody else waits here.
fn verifier(jwt: JwtConfig) -> Result<TokenVerifier, Failure> {
    let patience = jwt.timeout;
    let verifier = TokenVerifier::start(jwt, &Metrics::new(&[]))?;
    let look = std::time::Duration::from_millis(10);
    let mut waited = std::time::Duration::ZERO;
    while !verifier.has_keys() && waited < patience {
        std::thread::sleep(look);
        waited += look;
    }
    Ok(verifier)
}

/// What leases may hold back of a limit, if there are any for it.
fn leases(redis: &RedisConfig, limit: &Limit) -> Option<Leases> {
    let replicas = redis.replicas.unwrap_or(REPLICAS);
    let HeldBack { units, capacity, lasts, .. } =
        what_may_lie_elsewhere(limit, replicas, redis.leases.as_ref()?)?;
    Some(Leases { replicas, units, capacity, milliseconds: lasts.get().div_ceil(1_000_000) })
}

/// The request as it would come over the wire.
fn request(arguments: &Explain) -> Result<Request<()>, String> {
    let text = arguments.request.as_deref().unwrap_or_default().trim();
    let (method, target) = text.split_once(char::is_whitespace).unwrap_or(("GET", text));
    let method: Method = method.parse().map_err(|_| format!("{method:?} is not a method"))?;
    let target: Uri = target.trim().parse().map_err(|_| format!("{target:?} is neither a path nor a URL"))?;
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_11;
    *request.method_mut() = method;
    *request.uri_mut() = target;
    for (name, value) in &arguments.headers {
        request.headers_mut().append(name.clone(), value.clone());
    }
    if !request.headers().contains_key(header::HOST) {
        // HTTP/1.1 asks for one; who wants to match it gives it.
        *request.version_mut() = Version::HTTP_10;
    }
    Ok(request)
}
