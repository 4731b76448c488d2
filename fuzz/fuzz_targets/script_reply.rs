//! Whatever bytes a store answers with: an answer for each request of the call, or an error for all of them; a request is
//! admitted where all its parts are; half a number is never an answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ratelimit_redis::fuzz_reply;

fuzz_target!(|input: (Vec<Vec<u8>>, Vec<u8>)| fuzz_reply(&input.0, &input.1));
