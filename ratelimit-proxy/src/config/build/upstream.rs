//! Where requests go.

use std::collections::HashMap;
use std::path::Path;

use http::uri::PathAndQuery;

use super::{limit, requests, set};
use crate::config::decode::{At, Either, Field};
use crate::config::fault::{Faults, Place, shown, shown_path};
use crate::config::leaf::Text;
use crate::config::model::{Balance, HealthCheck, Match, Upstream};
use crate::config::raw::{self, BalanceWord, Root};
use crate::config::source;
use crate::config::words::KeyPart;
use crate::upstream::{Scheme, Target, Tls, TlsError, TlsParts};

/// Most entries, and most servers of one.
const MOST: usize = 1000;

/// Where requests go, in order; empty if that was refused. Files are sought in `base`.
pub(super) fn upstreams(root: &Root, top: &Place, base: &Path, faults: &mut Faults) -> Vec<Upstream> {
    let entries = match (&root.upstream, &root.upstreams) {
        (Field::Absent, Field::Absent) => {
            let hint = "write where requests go, such as upstream: http://127.0.0.1:9000";
            faults.refuse_with(top, "upstream is missing", hint);
            return Vec::new();
        }
        (upstream, Field::Absent) => {
            return upstream.get().map(|target| Upstream::new(target.value.clone())).into_iter().collect();
        }
        (Field::Absent, upstreams) => upstreams,
        (_, upstreams) => {
            if let Some(upstreams) = upstreams.get() {
                let hint = "upstream is short for one entry of upstreams: write one of them";
                faults.refuse_with(&upstreams.place, "stands beside upstream", hint);
            }
            upstreams
        }
    };
    let Some(entries) = entries.get() else { return Vec::new() };
    if entries.0.is_empty() {
        faults.refuse(&entries.place, "an empty list: requests must go somewhere");
    }
    if let Some(surplus) = entries.0.get(MOST) {
        faults.refuse(&surplus.place, format!("there are at most {MOST} entries"));
    }
    let mut built = Vec::new();
    // The line of the entry that leaves nothing for those behind it.
    let mut all = None;
    for entry in entries.0.iter().take(MOST) {
        if let Some(line) = all {
            let message = format!("no request comes here: the entry in line {line} takes all");
            faults.refuse(&entry.place, message);
        }
        if entry.r#match.get().map_or_else(|| entry.r#match.is_absent(), |given| requests::is_all(given)) {
            all = all.or(Some(entry.place.line));
        }
        built.extend(upstream(entry, base, faults));
    }
    built
}

fn upstream(raw: &raw::Upstream, base: &Path, faults: &mut Faults) -> Option<Upstream> {
    let matches = raw.r#match.get().map_or_else(Match::default, |given| requests::matches(given, faults));
    let balance = balance(raw, &matches, faults);
    let hashes = |balance: &Balance| matches!(balance, Balance::Hash(key) if key.iter().any(KeyPart::is_of_descriptor));
    if matches.names_descriptors() || hashes(&balance) {
        let message = "requests have no domain and no descriptors: those are Envoy's questions'";
        let place = raw.r#match.get().map(|given| &given.place).filter(|_| matches.names_descriptors());
        let place = place.or(raw.balance.get().map(|given| &given.place));
        faults.refuse(place.unwrap_or(&Place::default()), message);
    }
    let (mut connect, mut response) = (None, None);
    if let Some(timeout) = raw.timeout.get() {
        connect = timeout.connect.get().map(|given| given.value.0);
        response = timeout.response.get().map(|given| given.value.0);
        for field in [&timeout.connect, &timeout.response] {
            set(field, &mut std::time::Duration::default(), faults);
        }
    }
    let servers = servers(raw.servers.get()?, faults);
    // Where there is another server, nobody needs to notice that one went away.
    let retries = raw.retries.get().map_or(u32::from(servers.len() > 1), |retries| retries.value.0);
    let tls = raw.tls.get().and_then(|tls| {
        if !servers.iter().any(|server| server.scheme() == Scheme::Https) {
            faults.refuse_with(
                &tls.place,
                "has no effect: no server is spoken to with TLS",
                "write https://",
            );
        }
        self::tls(tls, base, faults)
    });
    Some(Upstream {
        matches,
        servers,
        balance,
        connect,
        response,
        retries,
        health_check: raw.health_check.get().and_then(|check| health_check(check, faults)),
        tls,
    })
}

fn servers(given: &At<crate::config::decode::Many<Target>>, faults: &mut Faults) -> Vec<Target> {
    if let Some(surplus) = given.0.get(MOST) {
        faults.refuse(&surplus.place, format!("an upstream has at most {MOST} servers"));
    }
    let mut seen = HashMap::new();
    for server in given.0.iter().take(MOST) {
        if let Some(line) = seen.insert(server.value.to_string(), server.place.line) {
            faults.refuse(&server.place, format!("{} stands in line {line} already", server.value));
        }
    }
    given.0.iter().map(|server| server.value.clone()).collect()
}

fn balance(raw: &raw::Upstream, matches: &Match, faults: &mut Faults) -> Balance {
    match raw.balance.get().map(|balance| &balance.value) {
        None | Some(Either::Word(BalanceWord::RoundRobin)) => Balance::RoundRobin,
        Some(Either::Word(BalanceWord::LeastRequests)) => Balance::LeastRequests,
        Some(Either::Section(section)) => {
            let Some(parts) = section.hash.get() else { return Balance::default() };
            Balance::Hash(limit::key(parts, &raw.r#match, matches, faults))
        }
    }
}

fn health_check(raw: &At<raw::HealthCheck>, faults: &mut Faults) -> Option<HealthCheck> {
    let path = raw.path.get().and_then(|path| {
        let parsed = PathAndQuery::try_from(path.value.0.as_str()).ok();
        let parsed = parsed.filter(|parsed| parsed.as_str().starts_with('/'));
        if parsed.is_none() {
            let message = format!("{} is not a path", shown(&path.value.0));
            faults.refuse_with(&path.place, message, "write one such as /healthz");
        }
        parsed
    });
    let mut built = HealthCheck::new(path.unwrap_or(PathAndQuery::from_static("/")));
    set(&raw.interval, &mut built.interval, faults);
    set(&raw.timeout, &mut built.timeout, faults);
    built.fall = raw.fall.get().map_or(built.fall, |fall| fall.value.0);
    built.rise = raw.rise.get().map_or(built.rise, |rise| rise.value.0);
    Some(built)
}

fn tls(raw: &At<raw::UpstreamTls>, base: &Path, faults: &mut Faults) -> Option<Tls> {
    let mut file = |field: &Field<Text>| {
        let given = field.get()?;
        let path = base.join(&given.value.0);
        let message = |error| format!("can't read {}: {error}", shown_path(&path));
        source::read_regular(&path).map_err(|error| faults.refuse(&given.place, message(error))).ok()
    };
    let (ca, cert, key) = (file(&raw.ca), file(&raw.cert), file(&raw.key));
    match (&raw.cert, &raw.key) {
        (Field::Absent, Field::Given(one)) => faults.refuse(&one.place, "needs cert beside it"),
        (Field::Given(one), Field::Absent) => faults.refuse(&one.place, "needs key beside it"),
        _ => {}
    }
    let name = raw.server_name.get().map(|name| name.value.0.clone());
    let parts = TlsParts { authorities: ca, identity: cert.zip(key), name };
    let refused = |error: &TlsError| match error {
        TlsError::Authorities => raw.ca.get().map(|given| given.place.clone()),
        TlsError::Name => raw.server_name.get().map(|given| given.place.clone()),
        TlsError::Key => raw.key.get().map(|given| given.place.clone()),
        _ => raw.cert.get().map(|given| given.place.clone()),
    };
    Tls::new(&parts)
        .map_err(|error| {
            faults.refuse(&refused(&error).unwrap_or_else(|| raw.place.clone()), error.to_string())
        })
        .ok()
}
