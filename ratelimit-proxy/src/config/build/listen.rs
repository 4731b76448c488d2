//! Where clients and operators connect.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use super::limit;
use crate::config::decode::{At, Either, Many};
use crate::config::fault::{Faults, Place};
use crate::config::leaf::OrOff;
use crate::config::listen::{CertificateFiles, Listener, TlsConfig};
use crate::config::model::LimitConfig;
use crate::config::raw::{ListenTls, ProxyProtocol, Root};
use crate::server::tls;

/// Where to listen, and the operators' address if something is said about it. Files are sought in `base`.
pub(super) fn listen(
    root: &Root,
    base: &Path,
    faults: &mut Faults,
) -> (Vec<Listener>, Option<Option<SocketAddr>>) {
    let mut seen: HashMap<SocketAddr, u32> = HashMap::new();
    let mut listen = Vec::new();
    let mut claim = |address: SocketAddr, place: &Place, faults: &mut Faults| {
        // Port 0 is another one each time.
        if address.port() != 0
            && let Some(line) = seen.insert(address, place.line)
        {
            faults.refuse(place, format!("{address} is taken already, in line {line}"));
        }
    };
    for listener in root.listen.get().into_iter().flat_map(|listen| &listen.0) {
        match &listener.value {
            Either::Word(address) => {
                claim(*address, &listener.place, faults);
                listen.push(Listener::from(*address));
            }
            Either::Section(section) => {
                let tls = section.tls.get().and_then(|tls| certificates(tls, base, faults));
                let Some(address) = section.address.get() else { continue };
                claim(address.value, &address.place, faults);
                let proxy_protocol =
                    section.proxy_protocol.get().is_some_and(|word| word.value == ProxyProtocol::Required);
                listen.push(Listener { address: address.value, tls, proxy_protocol });
            }
        }
    }
    let admin = root.admin.get().and_then(|admin| match &admin.value {
        Either::Word(OrOff::Off) => Some(None),
        Either::Word(OrOff::On(address)) => {
            claim(*address, &admin.place, faults);
            Some(Some(*address))
        }
        Either::Section(section) => section.listen.get().map(|address| {
            claim(address.value, &address.place, faults);
            Some(address.value)
        }),
    });
    match root.rls.get().map(|rls| (&rls.place, &rls.value)) {
        Some((place, Either::Word(address))) => claim(*address, place, faults),
        Some((_, Either::Section(section))) => {
            if let Some(address) = section.listen.get() {
                claim(address.value, &address.place, faults);
            }
        }
        None => {}
    }
    (listen, admin)
}

/// Certificates that can be used as they are.
pub(super) fn certificates(
    given: &At<Many<ListenTls>>,
    base: &Path,
    faults: &mut Faults,
) -> Option<TlsConfig> {
    let mut built = TlsConfig { certificates: Vec::new(), client_ca: None };
    for entry in &given.value.0 {
        if let Some(path) = entry.client_ca.get() {
            if built.client_ca.is_some() {
                let hint = "it holds for all certificates of the listener";
                faults.refuse_with(&path.place, "client_ca stands here a second time", hint);
            }
            built.client_ca = Some(base.join(&path.value.0));
        }
        let (Some(cert), Some(key)) = (entry.cert.get(), entry.key.get()) else { return None };
        built
            .certificates
            .push(CertificateFiles { cert: base.join(&cert.value.0), key: base.join(&key.value.0) });
    }
    match tls::check(&built) {
        // Keys often are only where the proxy runs.
        Err(error) if error.unreadable => faults.warn(&given.place, format!("can't read {error}")),
        Err(error) => faults.refuse(&given.place, error.to_string()),
        Ok(()) => {}
    }
    Some(built)
}

/// Refuses what looks at clients' certificates where nobody is asked for one: such a value would be missing always.
pub(super) fn needed(
    root: &Root,
    listen: &[Listener],
    limits: &[LimitConfig],
    top: &Place,
    faults: &mut Faults,
) {
    let asked = |listener: &Listener| listener.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    if listen.iter().any(asked) {
        return;
    }
    let hint = "write client_ca beside the certificate of a listener";
    for limit in limits.iter().filter(|limit| limit.needs_certificate()) {
        let place = limit::place(root, limit.limit.name(), top);
        faults.refuse_with(place, "looks at clients' certificates, and no listener asks for one", hint);
    }
    let bound = root.jwt.get().and_then(|jwt| jwt.value.bound.get()).filter(|bound| bound.value);
    if let Some(bound) = bound {
        faults.refuse_with(&bound.place, "no listener asks clients for a certificate", hint);
    }
}
