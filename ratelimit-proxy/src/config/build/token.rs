//! Whose tokens are believed, and who needs to know.

use std::path::Path;

use ratelimit_core::SystemClock;

use super::limit;
use crate::config::decode::{At, Field};
use crate::config::fault::{Faults, Place, shown};
use crate::config::leaf::Text;
use crate::config::model::{LimitConfig, Match, Upstream};
use crate::config::raw::{self, Root};
use crate::identity::token::{JwtConfig, KeySource, TokenVerifier};

/// What `jwt` means. Keys on this machine are read, so that a file without any is refused here and not at start.
pub(super) fn jwt(
    field: &Field<raw::Jwt>,
    env: &dyn Fn(&str) -> Option<String>,
    base: &Path,
    faults: &mut Faults,
) -> Option<JwtConfig> {
    let given = field.get()?;
    let raw = &given.value;
    let sources = [
        (&raw.issuer, "issuer"),
        (&raw.jwks_url, "jwks_url"),
        (&raw.jwks_file, "jwks_file"),
        (&raw.secret_env, "secret_env"),
        (&raw.public_key_file, "public_key_file"),
    ];
    let written: Vec<_> = sources.iter().filter(|(field, _)| !field.is_absent()).collect();
    // An issuer beside another source says whose tokens these are.
    let (field, name) = match written.as_slice() {
        [one] => one,
        [(_, "issuer"), other] => other,
        [] => {
            let hint = "write issuer, jwks_url, jwks_file, secret_env or public_key_file";
            faults.refuse_with(&given.place, "the keys are missing", hint);
            return None;
        }
        several => {
            let names: Vec<_> = several.iter().map(|(_, name)| *name).collect();
            faults.refuse_with(
                &given.place,
                format!("{} stand beside each other", names.join(" and ")),
                "write one of them",
            );
            return None;
        }
    };
    let text = field.get()?;
    let source = source(name, text, env, base, faults)?;
    let mut config = JwtConfig::new(source);
    config.issuer = raw.issuer.get().map(|issuer| issuer.value.0.clone());
    if let Some(audience) = raw.audience.get() {
        config.audience = audience.0.iter().map(|one| one.value.0.clone()).collect();
    }
    if let Some(leeway) = raw.leeway.get() {
        config.leeway = leeway.value.0;
    }
    config.bound = raw.bound.get().is_some_and(|bound| bound.value);
    if let Err(error) = TokenVerifier::new(config.clone(), SystemClock::default()) {
        faults.refuse(&text.place, format!("{}: {error}", shown(&text.value.0)));
        return None;
    }
    Some(config)
}

fn source(
    name: &str,
    text: &At<Text>,
    env: &dyn Fn(&str) -> Option<String>,
    base: &Path,
    faults: &mut Faults,
) -> Option<KeySource> {
    let written = text.value.0.as_str();
    let url = |faults: &mut Faults| {
        let url: Option<http::Uri> = written.parse().ok();
        let url = url.filter(|url| {
            url.host().is_some_and(|host| !host.is_empty())
                && matches!(url.scheme_str(), Some("https" | "http"))
        });
        match &url {
            None => {
                let hint = "write one such as https://login.example.com";
                faults.refuse_with(&text.place, format!("{} is no URL", shown(written)), hint);
            }
            Some(url) if url.scheme_str() == Some("http") && !is_local(url) => {
                faults.warn(&text.place, "the keys come without TLS: whoever is on the way can forge tokens");
            }
            Some(_) => {}
        }
        url
    };
    Some(match name {
        "issuer" => {
            url(faults)?;
            KeySource::Issuer(written.to_owned())
        }
        "jwks_url" => KeySource::JwksUrl(url(faults)?),
        "jwks_file" => KeySource::JwksFile(base.join(written)),
        "public_key_file" => KeySource::PublicKeyFile(base.join(written)),
        _ => match env(written) {
            Some(secret) => KeySource::Secret(secret.into_bytes()),
            None => {
                let message = format!("the variable {} of the environment is not set", shown(written));
                faults.refuse_with(&text.place, message, "secret_env names a variable; set it");
                return None;
            }
        },
    })
}

fn is_local(url: &http::Uri) -> bool {
    url.host().is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"))
}

/// Refuses whatever looks at verified tokens where none are verified: such a value would be missing always.
pub(super) fn needed(
    root: &Root,
    exempt: &[Match],
    limits: &[LimitConfig],
    upstreams: &[Upstream],
    top: &Place,
    faults: &mut Faults,
) {
    if !root.jwt.is_absent() {
        return;
    }
    let hint = "write jwt: {issuer: https://login.example.com}, say";
    for limit in limits.iter().filter(|limit| limit.needs_token()) {
        let message = "looks at a verified token, and jwt says of none whom to believe";
        faults.refuse_with(limit::place(root, limit.limit.name(), top), message, hint);
    }
    if exempt.iter().any(Match::needs_token) {
        let place = root.exempt.get().map_or(top, |exempt| &exempt.place);
        faults.refuse_with(place, "looks at a verified token, and jwt says of none whom to believe", hint);
    }
    if upstreams.iter().any(Upstream::needs_token) {
        let place = root.upstreams.get().map_or(top, |upstreams| &upstreams.place);
        faults.refuse_with(place, "looks at a verified token, and jwt says of none whom to believe", hint);
    }
}
