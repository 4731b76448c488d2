//! `explain`: what the limits make of one request, without serving it.

use super::arguments::Explain;
use super::{Exit, Failure, print, run};
use crate::config::StoreConfig;
use crate::explain::{Question, explain_asked};
use crate::facts::Descriptor;
use crate::identity::token::{JwtConfig, TokenVerifier};
use crate::policy::Policy;
use crate::telemetry::metrics::Metrics;

pub(super) fn explain(arguments: &Explain) -> Result<Exit, Failure> {
    let config = run::load(&arguments.config)?.config;
    let policy = Policy::of(&config);
    let tokens = config.jwt.map(verifier).transpose()?;
    let redis = match &config.store {
        StoreConfig::Redis(redis) => Some(&**redis),
        StoreConfig::Memory(_) => None,
    };
    let explanation = if let Some(domain) = &arguments.domain {
        let entries: Vec<_> =
            arguments.descriptor.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let descriptor = Descriptor { domain: domain.as_bytes(), entries: &entries };
        explain_asked(&descriptor, &policy, redis)
    } else {
        let text = arguments.request.as_deref().unwrap_or_default().trim();
        let (method, target) = text.split_once(char::is_whitespace).unwrap_or(("GET", text));
        Question::new(method, target, arguments.headers.iter().cloned(), arguments.client)
            .map_err(|fault| Failure::Usage(vec![fault]))?
            .with_certificate(arguments.tls_client.clone())
            .explain(&policy, tokens.as_ref(), redis)
            .map_err(|fault| {
                Failure::Usage(vec![format!("the proxy would answer {}: {}", fault.status(), fault.detail())])
            })?
    };
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
