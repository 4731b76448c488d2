//! Whatever comes as a question of Envoy's: over the wire and as JSON it is the same question; it is refused for its form
//! alone; an answer has a status for each descriptor, and says no as a whole exactly where one of them does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ratelimit_proxy::fuzz_question;

fuzz_target!(|bytes: &[u8]| fuzz_question(bytes));
