//! Envoy's rate-limit service, and what its limits can't have.

use std::net::SocketAddr;
use std::path::Path;

use super::listen::certificates;
use super::requests::only_descriptors;
use super::set;
use crate::config::decode::{Either, Field};
use crate::config::fault::{Faults, Place};
use crate::config::model::{LimitConfig, RlsConfig};
use crate::config::raw::{self, Root};
use crate::config::words::{KeyPart, Source};

/// What `rls` means. Files are sought in `base`.
pub(super) fn rls(
    field: &Field<Either<SocketAddr, raw::Rls>>,
    base: &Path,
    faults: &mut Faults,
) -> Option<RlsConfig> {
    let raw = match &field.get()?.value {
        Either::Word(listen) => return Some(RlsConfig::new(*listen)),
        Either::Section(section) => section,
    };
    let mut built = RlsConfig::new(raw.listen.get()?.value);
    built.tls = raw.tls.get().and_then(|tls| certificates(tls, base, faults));
    set(&raw.deadline, &mut built.deadline, faults);
    set(&raw.max_connection_age, &mut built.max_connection_age, faults);
    built.max_override = raw.max_override.get().map(|rate| rate.value);
    Some(built)
}

/// Tells of limits on Envoy's questions that nobody will ask.
pub(super) fn asked(root: &Root, limits: &[LimitConfig], top: &Place, faults: &mut Faults) {
    if root.rls.is_absent() && limits.iter().any(LimitConfig::names_descriptors) {
        let message = "limits name descriptors, but rls is not given: only POST /json asks them";
        faults.warn(top, message);
    }
}

/// Refuses what a limit on Envoy's questions can't have: they bring their cost along and say nothing of how the
/// request ended, so nothing could be given back or settled.
pub(super) fn check(raw: &raw::Limit, limit: &LimitConfig, faults: &mut Faults) {
    if let Some(matches) = raw.r#match.get() {
        only_descriptors(&matches.value, faults);
    }
    let foreign = |source: &&Source| !matches!(source, Source::Descriptor(_));
    for (part, given) in limit.key.iter().zip(raw.key.get().into_iter().flat_map(|key| &key.value.0)) {
        let sources = match part {
            KeyPart::One(source) => std::slice::from_ref(source),
            KeyPart::First(sources) => sources.as_slice(),
        };
        if let Some(source) = sources.iter().find(foreign) {
            refuse(source, &given.place, faults);
        }
    }
    if let Some(by) = raw.tiers.get().and_then(|tiers| tiers.by.get())
        && foreign(&&by.value)
    {
        refuse(&by.value, &by.place, faults);
    }
    for (place, what) in [
        (raw.concurrency.get().map(|given| &given.place), "concurrency"),
        (raw.count.get().map(|given| &given.place), "count"),
    ] {
        if let Some(place) = place {
            let message = format!("{what} needs to know when a request ends, and Envoy does not tell");
            faults.refuse(place, message);
        }
    }
    if let Some(cost) = raw.cost.get() {
        let hint = "Envoy says it: hits_addend in its configuration";
        faults.refuse_with(&cost.place, "the cost of a question comes with it", hint);
    }
}

fn refuse(source: &Source, place: &Place, faults: &mut Faults) {
    let message = format!("Envoy's questions have no {source}: the limit names descriptors");
    faults.refuse_with(place, message, "write descriptor.NAME");
}
