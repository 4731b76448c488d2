//! Whatever a client sends in the field that names it: nothing panics, and the word that a trusted proxy appends
//! behind it, on the same line or on one of its own, is the answer.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::Arbitrary;
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use ratelimit_proxy::config::{ClientIp, Trust};
use ratelimit_proxy::identity::{Identity, forwarded, node};

#[derive(Arbitrary, Debug)]
struct Input {
    sent: Vec<u8>,
    client: Option<u32>,
    client_v6: u128,
    hops: bool,
}

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

fuzz_target!(|input: Input| {
    for element in forwarded::elements(&input.sent) {
        let _ = forwarded::client(element);
    }
    let _ = node::address(&input.sent);
    let Ok(sent) = HeaderValue::from_bytes(&input.sent) else { return };
    let client = match input.client {
        Some(bits) => IpAddr::V4(Ipv4Addr::from_bits(bits)),
        None => IpAddr::V6(Ipv6Addr::from_bits(input.client_v6)).to_canonical(),
    };
    if client == PROXY {
        return;
    }
    let trust = if input.hops { Trust::Hops(1) } else { Trust::Proxies(vec![PROXY.into()]) };
    let element = match client {
        IpAddr::V4(client) => format!("for={client}"),
        IpAddr::V6(client) => format!("for=\"[{client}]:80\";proto=https"),
    };
    for (name, word) in
        [("x-forwarded-for", client.to_string()), ("forwarded", element), ("x-real-ip", client.to_string())]
    {
        let header = HeaderName::from_static(name);
        let identity =
            Identity::new(&ClientIp { trust: trust.clone(), header: header.clone(), ..ClientIp::default() });
        let ask = |lines: &[HeaderValue]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(&header, line.clone());
            }
            identity.client(PROXY, &headers)
        };
        ask(std::slice::from_ref(&sent));
        let word = HeaderValue::try_from(word).expect("an address");
        assert_eq!(ask(&[sent.clone(), word.clone()]), client, "{name}: a line of its own");
        let joined = [sent.as_bytes(), b", ", word.as_bytes()].concat();
        let joined = HeaderValue::from_bytes(&joined).expect("both are values");
        assert_eq!(ask(&[joined]), client, "{name}: the same line");
    }
});
