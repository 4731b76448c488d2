//! [`Routes`]: which upstream a request is for, and by what hash a server of it is chosen. The same matchers and
//! keys as those of limits; where a request can be read in two ways, it fits if it fits both.

use ratelimit_core::KeyBuf;

use super::key::{KeyReader, write};
use super::matcher::{Effect, Matcher};
use crate::config::{Balance, Missing, Upstream};
use crate::facts::Facts;

/// The compiled matches of all upstreams.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    /// Empty where one upstream takes everything and needs no hash: nothing has to be looked at.
    entries: Box<[Entry]>,
}

#[derive(Clone, Debug)]
struct Entry {
    matcher: Matcher,
    hash: Option<KeyReader>,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Route {
    /// The number of the upstream, in the order of the file.
    pub(crate) upstream: usize,
    /// What decides the server. `None` where nothing does: the request has none of the values, or they are
    /// ambiguous, or no value was asked for.
    pub(crate) hash: Option<u64>,
}

impl Routes {
    pub(super) fn new(upstreams: &[Upstream], ipv6_prefix: u8) -> Self {
        let entry = |upstream: &Upstream| Entry {
            matcher: Matcher::new(&upstream.matches, Effect::LetsOff),
            hash: match &upstream.balance {
                Balance::Hash(key) => {
                    Some(KeyReader::new(key, Missing::Share, upstream.matches.path.as_ref(), ipv6_prefix))
                }
                Balance::RoundRobin | Balance::LeastRequests => None,
            },
        };
        let entries: Box<[Entry]> = upstreams.iter().map(entry).collect();
        match &*entries {
            [only] if only.hash.is_none() && only.matcher.is_open() => Self::default(),
            _ => Self { entries },
        }
    }

    /// The first that fits. `keys` is room to write in.
    #[inline]
    pub(super) fn find(&self, facts: &Facts<'_>, keys: &mut KeyBuf) -> Option<Route> {
        if self.entries.is_empty() { Some(Route::default()) } else { self.seek(facts, keys) }
    }

    fn seek(&self, facts: &Facts<'_>, keys: &mut KeyBuf) -> Option<Route> {
        let fits = |entry: &&Entry| entry.matcher.fails(facts).is_none();
        let (upstream, entry) = self.entries.iter().enumerate().find(|(_, entry)| fits(entry))?;
        let hash = entry.hash.as_ref().and_then(|reader| hash(reader, facts, keys));
        Some(Route { upstream, hash })
    }

    pub(super) fn looks_at_path(&self) -> bool {
        let by_path = |entry: &Entry| {
            let mut readers = entry.hash.iter().flat_map(KeyReader::readers);
            entry.matcher.looks_at_path() || readers.any(super::source::Reader::looks_at_path)
        };
        self.entries.iter().any(by_path)
    }
}

/// The same for the same values in every replica and every release: replicas agree on the server.
fn hash(reader: &KeyReader, facts: &Facts<'_>, keys: &mut KeyBuf) -> Option<u64> {
    let values = reader.read(facts).ok()?;
    if values.iter().all(|found| found.value.is_none()) {
        return None;
    }
    let start = keys.len();
    write(&values, keys);
    let (lead, rest) = keys.slice(start..keys.len()).parts();
    let hash = blake3::Hasher::new().update(&lead).update(rest).finalize();
    hash.as_bytes().first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;
    use crate::config::load_str;

    fn routes(yaml: &str) -> Routes {
        let text = format!("limits: []\n{yaml}");
        let loaded = load_str(&text, "c.yaml", &|_| None, std::path::Path::new(""));
        Routes::new(&loaded.unwrap_or_else(|faults| panic!("{}", faults[0])).config.upstreams, 64)
    }

    fn found(routes: &Routes, host: &str, path: &str, keys: &[&'static str]) -> Option<Route> {
        let mut headers = HeaderMap::new();
        for key in keys {
            headers.append("x-key", HeaderValue::from_static(key));
        }
        let client = [192, 0, 2, 1].into();
        let facts = Facts {
            method: &Method::GET,
            host,
            path,
            query: "",
            headers: &headers,
            client,
            claims: None,
            descriptor: None,
            tls_client: None,
        };
        routes.find(&facts, &mut KeyBuf::new())
    }

    #[test]
    fn the_first_that_fits_is_taken_and_there_may_be_none() {
        let routes = routes(
            "upstreams:
  - {match: {path: /api/v2/**}, servers: http://a}
  - {match: {path: /api/**}, servers: http://b}
  - {match: {host: '*.example.com'}, servers: http://c}",
        );
        for (host, path, upstream) in [
            ("x", "/api/v2/y", Some(0)),
            ("x", "/api/v3", Some(1)),
            ("www.example.com", "/api/v2", Some(0)),
            ("www.example.com", "/", Some(2)),
            ("x", "/", None),
        ] {
            assert_eq!(
                found(&routes, host, path, &[]).map(|route| route.upstream),
                upstream,
                "{host} {path}"
            );
        }
        assert!(routes.looks_at_path());
    }

    #[test]
    fn a_hash_is_the_same_for_the_same_values_and_none_without_any() {
        let routes = routes("upstreams: [{servers: [http://a, http://b], balance: {hash: header.x-key}}]");
        let hash = |keys: &[&'static str]| found(&routes, "a", "/", keys).unwrap().hash;
        // For ever: replicas of two releases agree.
        assert_eq!(hash(&["k"]), Some(HASH_OF_K));
        assert_ne!(hash(&["k"]), hash(&["l"]));
        assert_eq!(hash(&["k", "k"]), hash(&["k"]));
        assert_eq!(hash(&[]), None);
        assert_eq!(hash(&["k", "l"]), None);
    }

    const HASH_OF_K: u64 = 9_298_883_376_881_850_046;

    #[test]
    fn one_upstream_for_everything_is_not_looked_at() {
        assert!(routes("upstream: http://a").entries.is_empty());
        assert!(
            routes("upstreams: [{match: {path: /**}, servers: [http://a, http://b]}]").entries.is_empty()
        );
        assert_eq!(found(&routes("upstream: http://a"), "", "*", &[]), Some(Route::default()));
    }
}
