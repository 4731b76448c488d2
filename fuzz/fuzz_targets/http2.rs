//! Whatever frames a client sends over HTTP/2 to a whole proxy: what reaches the upstream keeps the grammar of HTTP/1.1, at
//! most one request for each stream that was opened; what comes back are frames, about streams that were opened; the
//! connection ends when the client's side does; and the proxy serves the next one.
#![no_main]

use std::collections::HashSet;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ratelimit_fuzz::Rig;

const CONFIG: &str = "
server: {timeouts: {head: 2s, idle: 2s, body: 2s, write: 2s}}
limits: [{name: all, rate: 10000000/s}, {name: key, key: header.x-api-key, rate: 10000000/s}]
";

static RIG: LazyLock<Rig> = LazyLock::new(|| Rig::start(CONFIG, false));

#[derive(Arbitrary, Debug)]
enum Payload {
    Raw(Vec<u8>),
    Request { method: u8, path: u8, fields: Vec<(u8, Vec<u8>)> },
    Number(u32),
}

#[derive(Arbitrary, Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u8,
    payload: Payload,
}

const LAST: &[u8; 8] = b"thatsall";
const METHODS: [&str; 5] = ["GET", "POST", "HEAD", "CONNECT", "OPTIONS"];
const PATHS: [&str; 6] = ["/", "/a?b=c", "", "*", "/%2f", "http://other/"];
const NAMES: [&str; 12] = [
    ":authority",
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "cookie",
    "x-api-key",
    "te",
    "expect",
    ":protocol",
    "X-Upper",
    "x-forwarded-for",
];

/// A field, literally and without Huffman's code.
fn literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let value = &value[..value.len().min(120)];
    out.extend([0, u8::try_from(name.len()).unwrap_or(0)]);
    out.extend(name);
    out.push(u8::try_from(value.len()).unwrap_or(0));
    out.extend(value);
}

fn payload(payload: &Payload) -> Vec<u8> {
    match payload {
        Payload::Raw(bytes) => bytes.iter().copied().take(16_384).collect(),
        Payload::Number(number) => number.to_be_bytes().to_vec(),
        Payload::Request { method, path, fields } => {
            let mut out = Vec::new();
            literal(&mut out, b":method", METHODS[usize::from(*method) % METHODS.len()].as_bytes());
            literal(&mut out, b":scheme", b"http");
            literal(&mut out, b":path", PATHS[usize::from(*path) % PATHS.len()].as_bytes());
            literal(&mut out, b":authority", b"test");
            for (name, value) in fields.iter().take(20) {
                literal(&mut out, NAMES[usize::from(*name) % NAMES.len()].as_bytes(), value);
            }
            out
        }
    }
}

fuzz_target!(|frames: Vec<Frame>| {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let mut opened = HashSet::new();
    for frame in frames.iter().take(200) {
        let payload = payload(&frame.payload);
        // Few streams, so that frames meet, and mostly such as a client opens.
        let stream = u32::from(frame.stream % 16);
        let kind = if matches!(frame.payload, Payload::Request { .. }) { 1 } else { frame.kind % 12 };
        if kind == 1 {
            opened.insert(stream);
        }
        bytes.extend(&u32::try_from(payload.len()).unwrap_or(0).to_be_bytes()[1..]);
        bytes.extend([kind, frame.flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
    }
    // Asked last, and answered when what came before was looked at.
    bytes.extend([0, 0, 8, 6, 0, 0, 0, 0, 0]);
    bytes.extend(LAST);
    let (client, answer) =
        RIG.send(&bytes, Duration::from_millis(50), |answer| answer.windows(8).any(|part| part == LAST));
    let arrived = RIG.arrived(client);
    RIG.forget(client);
    assert!(
        arrived.len() <= opened.len(),
        "{} requests of {} streams: {arrived:?}",
        arrived.len(),
        opened.len()
    );
    let mut rest = &answer[..];
    while let Some((head, more)) = rest.split_first_chunk::<9>() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        assert!(length <= 16_384, "a frame of {length} bytes");
        assert!(head[3] != 1 || opened.contains(&stream), "a head for stream {stream}, which nobody opened");
        // What is cut off belongs to a connection that was cut.
        let Some(next) = more.get(length..) else { break };
        rest = next;
    }
    static RUNS: AtomicU32 = AtomicU32::new(0);
    if RUNS.fetch_add(1, Ordering::Relaxed) % 256 == 0 {
        RIG.assert_serves(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    }
});
