//! A text is refused, or read back the same from how it is printed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ratelimit_core::Rate;

fuzz_target!(|text: &str| {
    if let Ok(rate) = text.parse::<Rate>() {
        assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate));
    }
});
