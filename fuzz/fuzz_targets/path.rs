//! A path is refused, or put into a form that is its own normal form and holds nothing two servers read differently.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ratelimit_proxy::path::NormalPath;

fuzz_target!(|raw: &str| {
    let Ok(path) = NormalPath::parse(raw) else { return };
    let normal = path.as_str();
    assert!(normal.starts_with('/'), "{normal:?}");
    let again = NormalPath::parse(normal).expect("a normal path is a path");
    assert_eq!(again.as_str(), normal);
    for bad in ["//", "/./", "/../", "\\", "%2f", "%2F", "%5c", "%5C", "%00", "\0"] {
        assert!(!normal.contains(bad), "{normal:?} has {bad:?}");
    }
});
