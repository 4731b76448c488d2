//! Where OTLP is sent to.

use std::path::Path;

use http::uri::Uri;
use http::{HeaderName, HeaderValue};

use super::set;
use crate::config::decode::{At, Either, Field};
use crate::config::fault::{Faults, shown};
use crate::config::leaf::{OrOff, Text};
use crate::config::otlp::OtlpConfig;
use crate::config::raw::{self, OtlpProtocol};
use crate::config::source;
use crate::upstream::{Tls, TlsParts};

/// What `otlp` means. Files are sought in `base`.
pub(super) fn otlp(
    field: &Field<Either<Text, raw::Otlp>>,
    base: &Path,
    faults: &mut Faults,
) -> Option<OtlpConfig> {
    let given = field.get()?;
    let raw = match &given.value {
        Either::Word(url) => {
            let url = At { place: given.place.clone(), value: Text(url.0.clone()) };
            return endpoint(&url, faults).map(OtlpConfig::new);
        }
        Either::Section(section) => section,
    };
    let endpoint = raw.endpoint.get().and_then(|url| endpoint(url, faults));
    let mut built = OtlpConfig::new(endpoint.unwrap_or_default());
    built.grpc = raw.protocol.get().is_some_and(|word| word.value == OtlpProtocol::Grpc);
    for (name, value) in raw.headers.get().into_iter().flat_map(|headers| &headers.value.0) {
        let field = HeaderName::try_from(&*name.value).ok().zip(HeaderValue::from_str(&value.value.0).ok());
        match field {
            Some((name, mut value)) => {
                value.set_sensitive(true);
                built.headers.insert(name, value);
            }
            None => faults.refuse(&name.place, "is no field of HTTP, or its value is none"),
        }
    }
    built.ca = raw.ca.get().map(|path| base.join(&path.value.0));
    if let (Some(given), Some(path)) = (raw.ca.get(), &built.ca) {
        let parts = |pem| TlsParts { authorities: Some(pem), ..TlsParts::default() };
        match source::read_regular(path) {
            Err(error) => {
                faults.refuse(&given.place, format!("can't read {}: {error}", shown(&given.value.0)))
            }
            Ok(pem) => {
                if let Err(error) = Tls::new(&parts(pem)) {
                    faults.refuse(&given.place, format!("{}: {error}", shown(&given.value.0)));
                }
            }
        }
    }
    if let Some(traces) = raw.traces.get() {
        built.traces = match &traces.value {
            OrOff::Off => None,
            OrOff::On(share) => Some(share.0),
        };
    }
    match raw.metrics.get() {
        Some(At { value: OrOff::Off, .. }) => built.metrics = None,
        Some(At { value: OrOff::On(every), place }) => {
            let mut length = every.0;
            let every = Field::Given(At { place: place.clone(), value: *every });
            set(&every, &mut length, faults);
            built.metrics = Some(length);
        }
        None => {}
    }
    built.logs = raw.logs.get().is_none_or(|logs| logs.value);
    for (name, value) in raw.attributes.get().into_iter().flat_map(|attributes| &attributes.value.0) {
        built.attributes.push((name.value.clone(), value.value.0.clone()));
    }
    Some(built)
}

fn endpoint(url: &At<Text>, faults: &mut Faults) -> Option<Uri> {
    let written = &url.value.0;
    let uri = written.parse::<Uri>().ok().filter(|uri| {
        uri.host().is_some_and(|host| !host.is_empty())
            && matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.query().is_none()
    });
    if uri.is_none() {
        let hint = "write one such as http://127.0.0.1:4318";
        faults.refuse_with(&url.place, format!("{} is no URL of a collector", shown(written)), hint);
    }
    uri
}
