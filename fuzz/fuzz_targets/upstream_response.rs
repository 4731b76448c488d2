//! A response of an upstream's means the same however its bytes are split, and never more than they hold.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ratelimit_proxy::fuzz_upstream_response;

fuzz_target!(|input: (bool, Vec<u8>, Vec<u8>)| {
    let (is_head, sizes, bytes) = input;
    fuzz_upstream_response(&bytes, &sizes, is_head);
});
