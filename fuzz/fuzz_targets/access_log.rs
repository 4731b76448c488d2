//! Whatever stands in an access log: nothing panics, what was written is what is read, in both formats, and no byte of a
//! line reaches a page or a terminal as it was.
#![no_main]

use std::net::{IpAddr, Ipv6Addr};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ratelimit_core::Nanos;
use ratelimit_proxy::replay::Reader;

#[derive(Arbitrary, Debug)]
struct Input {
    line: Vec<u8>,
    client: u128,
    second: u32,
    status: u16,
    agent: String,
    path: Vec<u8>,
}

/// As nginx escapes a variable in a log.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'"' | b'\\' | 0..0x20 | 0x7f.. => format!("\\x{byte:02X}"),
        other => char::from(other).to_string(),
    };
    text.bytes().map(escape).collect()
}

fuzz_target!(|input: Input| {
    let mut reader = Reader::default();
    let _ = reader.read(&input.line);

    let client = IpAddr::V6(Ipv6Addr::from_bits(input.client));
    let path: String = input.path.iter().map(|byte| format!("%{byte:02x}")).collect();
    // A year in which everybody agrees on the length of months.
    let (hour, minute, second) = (input.second / 3600 % 24, input.second / 60 % 60, input.second % 60);
    let time = Nanos::from_secs(1_767_225_600 + u64::from(hour * 3600 + minute * 60 + second));
    let agent = input.agent.trim();
    let combined = format!(
        "{client} - - [01/Jan/2026:{hour:02}:{minute:02}:{second:02} +0000] \"GET /{path} HTTP/1.1\" {} 5 \"-\" \"{}\"",
        input.status,
        escaped(agent)
    );
    let json = format!(
        "{{\"client\":\"{client}\",\"time\":\"2026-01-01T{hour:02}:{minute:02}:{second:02}Z\",\"method\":\"GET\",\
         \"uri\":\"/{path}\",\"status\":{},\"headers\":{{\"user-agent\":{}}}}}",
        input.status,
        serde_json::to_string(agent).expect("a string")
    );
    for line in [combined, json] {
        let Ok(entry) = reader.read(line.as_bytes()) else {
            // Only a target that is too long is none.
            assert!(path.len() > 60_000, "{line}");
            return;
        };
        assert_eq!((entry.client, entry.time, entry.status), (client, time, Some(input.status)), "{line}");
        assert_eq!(entry.head.uri.path(), format!("/{path}"));
        let told = entry.head.headers.get("user-agent").map(|value| value.as_bytes());
        let can_be_told = agent.bytes().all(|byte| byte == b'\t' || byte >= 0x20 && byte != 0x7f);
        if can_be_told && !agent.is_empty() && agent != "-" {
            assert_eq!(told, Some(agent.as_bytes()), "{line}");
        }
    }
});
