//! A request that a browser could have sent, and limits that it meets.

use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ratelimit_proxy::config::load_str;
use ratelimit_proxy::facts::Facts;
use ratelimit_proxy::policy::Policy;

/// One limit, by the client's address.
pub const BY_CLIENT: &str = "  - {name: client, key: client.ip, rate: 100/s}\n";

/// Two limits, by header and path.
pub const TWO: &str = "
  - {name: plan, match: {path: '/v1/{resource}/**'}, key: [header.x-api-key, path.resource], rate: 100/s}
  - {name: path, key: [header.x-api-key, path], rate: 1000/s}
";

/// Those limits, compiled.
///
/// # Panics
/// When they are none.
#[must_use]
pub fn policy(limits: &str) -> Policy {
    let text = format!("upstream: http://127.0.0.1:1\nlimits:\n{limits}");
    match load_str(&text, "bench.yaml", &|_| None, Path::new("")) {
        Ok(loaded) => Policy::of(&loaded.config),
        Err(faults) => panic!("{faults:?}"),
    }
}

/// The request's fields.
#[must_use]
pub fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "api.example.com"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("accept-language", "en-GB,en;q=0.5"),
        ("x-api-key", "k-0123456789abcdef"),
        ("cookie", "theme=dark; sid=0123456789abcdef"),
        ("referer", "https://example.com/"),
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}

/// The request.
#[must_use]
pub fn facts(headers: &HeaderMap) -> Facts<'_> {
    Facts {
        method: &Method::GET,
        host: "api.example.com",
        path: "/v1/users/7",
        query: "page=2",
        headers,
        claims: None,
        descriptor: None,
        tls_client: None,
        client: [192, 0, 2, 7].into(),
    }
}
