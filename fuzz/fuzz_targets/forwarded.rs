//! Whatever a client sent before it, the element that a proxy appended to `Forwarded` is the last.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use ratelimit_proxy::identity::forwarded::{client, elements};

fuzz_target!(|line: &[u8]| {
    for element in elements(line) {
        let _ = client(element);
    }
    let appended = [line, b", for=\"[2001:db8::1]:4711\";host=\"a, b\""].concat();
    let last = elements(&appended).next().and_then(client);
    assert_eq!(last, Some("2001:db8::1".parse::<IpAddr>().expect("an address")));
});
