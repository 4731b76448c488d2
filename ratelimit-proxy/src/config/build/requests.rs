//! Which requests: matches and what is exempt.

use std::collections::HashMap;

use http::HeaderName;

use crate::config::decode::{At, Entries, Field, Items};
use crate::config::fault::Faults;
use crate::config::leaf::header_name;
use crate::config::model::Match;
use crate::config::raw;
use crate::config::words::Glob;

/// What a match means.
pub(super) fn matches(raw: &raw::Match, faults: &mut Faults) -> Match {
    let mut built = Match::default();
    if let Some(path) = raw.path.get() {
        built.path = Some(path.value.clone());
    }
    if let Some(methods) = raw.methods.get() {
        built.methods = methods.0.iter().map(|method| method.value.clone()).collect();
    }
    if let Some(host) = raw.host.get() {
        if host.as_str().is_empty() {
            faults.refuse(&host.place, "an empty host: no request has one");
        }
        // A colon within brackets belongs to an IPv6 address.
        if host.as_str().rsplit(']').next().is_some_and(|end| end.contains(':')) {
            faults.refuse(&host.place, "a host is matched without its port");
        }
        // As requests have it: in lower case, without the dot that may end a full name.
        let lower = host.as_str().to_ascii_lowercase();
        let name = lower.strip_suffix('.').filter(|name| !name.is_empty() && !name.ends_with('*'));
        built.host = Some(Glob::new(name.unwrap_or(&lower)));
    }
    built.headers = headers(&raw.headers, faults);
    if let Some(query) = raw.query.get() {
        built.query = query.0.iter().map(|(name, glob)| (name.value.clone(), glob.value.clone())).collect();
    }
    if let Some(claims) = raw.jwt.get() {
        built.jwt = claims.0.iter().map(|(name, glob)| (name.value.clone(), glob.value.clone())).collect();
    }
    if let Some(nets) = raw.client_ip.get() {
        built.client_ip = nets.0.iter().map(|net| net.0).collect();
    }
    if let Some(not) = raw.not.get() {
        if is_empty(&not.value) {
            faults.refuse(&not.place, "an empty section: it leaves no request to be meant");
        }
        built.not = Some(Box::new(matches(&not.value, faults)));
    }
    built.domain = raw.domain.get().map(|domain| {
        if domain.value.0.is_empty() {
            faults.refuse(&domain.place, "an empty domain: no question has one");
        }
        domain.value.0.clone()
    });
    built.descriptors = raw.descriptors.get().map(|entries| descriptors(entries, faults));
    built
}

/// The entries of a descriptor.
fn descriptors(entries: &At<Items<Entries<Glob>>>, faults: &mut Faults) -> Vec<(String, Glob)> {
    if entries.0.is_empty() {
        let hint = "write [{user: \"*\"}], say, or leave it out to mean every descriptor";
        faults.refuse_with(&entries.place, "an empty list: no descriptor has no entry", hint);
    }
    let mut built = Vec::new();
    for entry in &entries.0 {
        match entry.value.0.as_slice() {
            [(name, glob)] => built.push((name.value.clone(), glob.value.clone())),
            several => {
                let message = format!("{} names where one entry has one", several.len());
                faults.refuse_with(&entry.place, message, "write [{service: auth}, {user: \"*\"}], in order");
            }
        }
    }
    built
}

/// Refuses what Envoy's questions do not have: they are judged by their domain and descriptor alone.
pub(super) fn only_descriptors(raw: &raw::Match, faults: &mut Faults) {
    let others = [
        (raw.path.get().map(|given| &given.place), "path"),
        (raw.methods.get().map(|given| &given.place), "method"),
        (raw.host.get().map(|given| &given.place), "host"),
        (raw.headers.get().map(|given| &given.place), "header"),
        (raw.query.get().map(|given| &given.place), "query"),
        (raw.client_ip.get().map(|given| &given.place), "client"),
        (raw.jwt.get().map(|given| &given.place), "token"),
    ];
    for (place, what) in others {
        if let Some(place) = place {
            let message =
                format!("Envoy's questions have no {what}: they are matched by domain and descriptors");
            faults.refuse_with(place, message, "let Envoy send it as an entry of the descriptor");
        }
    }
    if let Some(not) = raw.not.get() {
        only_descriptors(&not.value, faults);
    }
}

fn headers(field: &Field<Entries<Glob>>, faults: &mut Faults) -> Vec<(HeaderName, Glob)> {
    let mut built = Vec::new();
    let mut written: HashMap<HeaderName, &str> = HashMap::new();
    for (name, glob) in field.get().into_iter().flat_map(|entries| &entries.0) {
        let Some(header) = header_name(&name.value, &name.place, faults) else { continue };
        if header == http::header::HOST {
            let hint = "write host: beside headers; a target may name another host than this field does";
            faults.refuse_with(&name.place, "the host is no field to be matched", hint);
        }
        // The very same name is refused where the section is read.
        if written.insert(header.clone(), &name.value).is_some_and(|before| before != name.value) {
            faults.refuse(&name.place, "stands here a second time: names of fields have no case");
        }
        built.push((header, glob.value.clone()));
    }
    built
}

/// Whether nothing at all is said.
fn is_empty(raw: &raw::Match) -> bool {
    is_all_but_path(raw) && raw.path.is_absent()
}

fn is_all_but_path(raw: &raw::Match) -> bool {
    raw.methods.is_absent()
        && raw.host.is_absent()
        && raw.headers.is_absent()
        && raw.query.is_absent()
        && raw.client_ip.is_absent()
        && raw.jwt.is_absent()
        && raw.not.is_absent()
        && raw.domain.is_absent()
        && raw.descriptors.is_absent()
}

/// Whether it is plain that all requests are meant.
pub(super) fn is_all(raw: &raw::Match) -> bool {
    let path = match &raw.path {
        Field::Absent => true,
        Field::Broken => false,
        Field::Given(path) => path.open && path.segments.is_empty(),
    };
    path && is_all_but_path(raw)
}

/// Requests that are never limited.
pub(super) fn exempt(field: &Field<Items<raw::Match>>, faults: &mut Faults) -> Vec<Match> {
    let entries: &[At<raw::Match>] = field.get().map_or(&[], |entries| &entries.0);
    entries
        .iter()
        .map(|entry| {
            if is_empty(&entry.value) {
                faults.refuse(&entry.place, "all requests would be exempt: say which");
            } else if is_all(&entry.value) {
                faults.warn(&entry.place, "all requests are exempt: nothing is limited");
            }
            let built = matches(&entry.value, faults);
            if built.names_descriptors() {
                only_descriptors(&entry.value, faults);
            }
            built
        })
        .collect()
}
