//! Where counters live.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ratelimit_core::Overflow;
use ratelimit_redis::lease::Policy;
use ratelimit_redis::{OnFailure, RedisStore};

use super::set;
use crate::config::decode::{At, Either, Field};
use crate::config::fault::{Faults, Place, shown, shown_path};
use crate::config::leaf::Text;
use crate::config::raw::{self, ConsistencyWord, OnFailureWord, OverflowWord};
use crate::config::source;
use crate::config::store::{MemoryConfig, RedisConfig, Servers, StoreConfig, StoreUrl};

/// Files are sought in `base`.
pub(super) fn store(
    field: &Field<Either<raw::StoreWord, raw::Store>>,
    base: &Path,
    faults: &mut Faults,
) -> StoreConfig {
    let Some(At { value: Either::Section(section), .. }) = field.get() else {
        return StoreConfig::default();
    };
    if section.redis.is_absent() {
        refuse_without_redis(section, faults);
        return StoreConfig::Memory(section.memory.get().map_or_else(MemoryConfig::default, memory));
    }
    if let Some(memory) = section.memory.get() {
        faults.refuse_with(
            &memory.place,
            "stands beside redis",
            "counters live in one of them: leave one out",
        );
    }
    let servers = section.redis.get().and_then(|redis| servers(redis, faults));
    // Everything else is looked at even where there is no address.
    let mut built = RedisConfig::new(servers.unwrap_or_else(|| Servers::Nodes(Vec::new())));
    redis(section, base, &mut built, faults);
    StoreConfig::Redis(Box::new(built))
}

fn memory(raw: &At<raw::Memory>) -> MemoryConfig {
    let mut built = MemoryConfig::default();
    if let Some(keys) = raw.max_keys.get() {
        built.max_keys = usize::try_from(keys.0).unwrap_or(usize::MAX);
    }
    if let Some(overflow) = raw.overflow.get() {
        built.overflow = match overflow.value {
            OverflowWord::Share => Overflow::Share,
            OverflowWord::Deny => Overflow::Deny,
        };
    }
    built
}

/// The memory of this process is always there, asks for no password and is nobody else's.
fn refuse_without_redis(section: &raw::Store, faults: &mut Faults) {
    fn place<T>(field: &Field<T>) -> Option<&Place> {
        field.get().map(|field| &field.place)
    }
    let raw::Store {
        memory: _,
        redis: _,
        consistency,
        lease_horizon,
        deadline,
        on_failure,
        replicas,
        prefix,
        username,
        password_file,
        tls,
        permit_expiry,
        required_for_ready,
    } = section;
    let places = [
        place(consistency),
        place(lease_horizon),
        place(deadline),
        place(on_failure),
        place(replicas),
        place(prefix),
        place(username),
        place(password_file),
        place(tls),
        place(permit_expiry),
        place(required_for_ready),
    ];
    for place in places.into_iter().flatten() {
        faults.refuse(place, "means nothing without redis");
    }
}

fn servers(
    given: &At<super::super::decode::Many<Either<StoreUrl, raw::Sentinels>>>,
    faults: &mut Faults,
) -> Option<Servers> {
    let mut nodes = Vec::new();
    for entry in &given.0 {
        match &entry.value {
            Either::Word(url) => nodes.push(url.clone()),
            Either::Section(_) if given.0.len() > 1 => {
                faults.refuse(&entry.place, "sentinels stand alone: several of them are a list within");
                return None;
            }
            Either::Section(section) => {
                let sentinels = section.sentinels.get()?.0.iter().map(|url| url.value.clone()).collect();
                return Some(Servers::Sentinels { sentinels, master: section.master.get()?.0.clone() });
            }
        }
    }
    Some(Servers::Nodes(nodes))
}

fn redis(section: &raw::Store, base: &Path, built: &mut RedisConfig, faults: &mut Faults) {
    let leased = section.consistency.get().is_some_and(|word| word.value == ConsistencyWord::Leased);
    built.leases = leased.then(Policy::default);
    if let Some(horizon) = section.lease_horizon.get() {
        if !leased {
            faults.refuse(&horizon.place, "means nothing without consistency: leased");
        }
        built.leases = leased.then(|| Policy::horizon_of(horizon.value.0 * 1024 / 100));
    }
    set(&section.deadline, &mut built.deadline, faults);
    if let Some(on_failure) = section.on_failure.get() {
        built.on_failure = match on_failure.value {
            OnFailureWord::Local => OnFailure::Local,
            OnFailureWord::Allow => OnFailure::Allow,
            OnFailureWord::Deny => OnFailure::Deny,
        };
    }
    built.replicas = section.replicas.get().map(|replicas| replicas.0);
    if let Some(prefix) = section.prefix.get() {
        built.prefix.clone_from(&prefix.0);
        // The store's own rule; the address is any.
        if RedisStore::builder("redis://a").prefix(&prefix.0).check().is_err() {
            let message =
                format!("{} is not a prefix: write 1 to 64 of A-Z a-z 0-9 _ . - :", shown(&prefix.0));
            faults.refuse(&prefix.place, message);
        }
    }
    built.username = section.username.get().map(|name| name.0.clone());
    built.password_file = section.password_file.get().map(|path| file(path, base, faults));
    if let Some(expiry) = section.permit_expiry.get() {
        if expiry.0 < Duration::from_secs(1) {
            faults.refuse(&expiry.place, "permits would lapse before they can be renewed: write at least 1s");
        }
        built.permit_expiry = expiry.0;
    }
    built.required_for_ready = section.required_for_ready.get().is_some_and(|required| required.value);
    if let Some(tls) = section.tls.get() {
        if !built.servers.urls().is_empty() && !built.servers.urls().iter().any(StoreUrl::is_tls) {
            faults.refuse_with(&tls.place, "has no effect: no address is encrypted", "write rediss://");
        }
        built.tls_authority = tls.ca.get().map(|path| file(path, base, faults));
        match (&tls.cert, &tls.key) {
            (Field::Absent, Field::Given(one)) => faults.refuse(&one.place, "needs cert beside it"),
            (Field::Given(one), Field::Absent) => faults.refuse(&one.place, "needs key beside it"),
            (Field::Given(cert), Field::Given(key)) => {
                built.tls_identity = Some((file(cert, base, faults), file(key, base, faults)));
            }
            _ => {}
        }
    }
}

/// A file that is read for each connection. That it can't be read here says little: secrets often are only where
/// the proxy runs.
fn file(path: &At<Text>, base: &Path, faults: &mut Faults) -> PathBuf {
    let full = base.join(&path.value.0);
    if let Err(error) = source::read_regular(&full) {
        faults.warn(&path.place, format!("can't read {}: {error}", shown_path(&full)));
    }
    full
}
