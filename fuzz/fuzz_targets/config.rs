//! A text is refused with faults that stand in it, each on one line, or it becomes a configuration. So is a limit
//! on one line.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use ratelimit_proxy::config::{limit_from_short, load_str};

fuzz_target!(|text: &str| {
    let env = |name: &str| (name.len() < 4).then(|| "1/s".to_owned());
    if let Err(faults) = load_str(text, "fuzz.yaml", &env, Path::new("/nowhere")) {
        assert!(!faults.is_empty());
        assert!(faults.is_sorted_by_key(|fault| (fault.line, fault.column)));
        for fault in faults {
            assert!(!fault.to_string().chars().any(char::is_control), "{fault:?}");
        }
    }
    if let Err(error) = limit_from_short(text, 1) {
        assert!(error.column as usize <= text.chars().count() + 1, "{error:?}");
        assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
    }
});
