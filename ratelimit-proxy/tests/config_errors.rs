//! The configuration language: what loads and what it comes to, and for everything that does not, what is said
//! and where.

use std::path::Path;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};
use ratelimit_core::{Algorithm, FieldStyle, Overflow, Rate, ResetFormat};
use ratelimit_proxy::DenialBody;
use ratelimit_proxy::config::{self, ConfigFault, Cost, Loaded, LogKeys, LogRequests, Missing, Quota, Trust};

const CONTRACT: &str = include_str!("config/contract.yaml");
const LIVING: &str = include_str!("config/living.yaml");

fn here() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config"))
}

fn env(name: &str) -> Option<String> {
    match name {
        "BURST" => Some("200".to_owned()),
        "WRONG" => Some("many".to_owned()),
        "TRICK" => Some("1/s\nlimits: []".to_owned()),
        _ => None,
    }
}

fn load(text: &str) -> Result<Loaded, Vec<ConfigFault>> {
    config::load_str(text, "c.yaml", &env, here())
}

fn loads(text: &str) -> Loaded {
    load(text).unwrap_or_else(|faults| panic!("{text}\n{}", lines(&faults).join("\n")))
}

fn lines(faults: &[ConfigFault]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

/// The faults of a text, without the file's name.
fn faults(text: &str) -> Vec<String> {
    let faults = load(text).expect_err(text);
    lines(&faults).into_iter().map(|line| line.strip_prefix("c.yaml:").unwrap().to_owned()).collect()
}

/// The faults of a configuration that is sound but for these limits, the first of which is in line 3.
fn of_limits(text: &str) -> Vec<String> {
    faults(&format!("upstream: http://127.0.0.1:9000\nlimits:\n{text}"))
}

#[track_caller]
fn assert_faults(found: &[String], expected: &[&str]) {
    assert_eq!(found, expected, "\n{}\n", found.join("\n"));
}
