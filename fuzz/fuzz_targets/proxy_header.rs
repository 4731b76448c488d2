//! A listener that expects PROXY headers: the address in a well formed one, of either version, is the client; a request
//! whose connection began with anything else does not reach the upstream.
#![no_main]

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::LazyLock;
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ratelimit_fuzz::Rig;

const CONFIG: &str = "
client_ip: {ipv6_prefix: 128}
server: {timeouts: {head: 2s, idle: 2s, body: 2s, write: 2s}}
limits: [{name: all, rate: 10000000/s}]
";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

static RIG: LazyLock<Rig> = LazyLock::new(|| Rig::start(CONFIG, true));

#[derive(Arbitrary, Debug)]
enum Input {
    Raw(Vec<u8>),
    Text { v6: bool, address: u128, port: u16 },
    Binary { v6: bool, address: u128, port: u16, local: bool, tlvs: Vec<u8> },
}

fn source(v6: bool, address: u128, port: u16) -> SocketAddr {
    if v6 {
        SocketAddr::V6(SocketAddrV6::new(address.into(), port, 0, 0))
    } else {
        SocketAddr::V4(SocketAddrV4::new((address as u32).into(), port))
    }
}

/// The header, and whose connection it says it is.
fn encode(input: &Input) -> (Vec<u8>, Option<IpAddr>) {
    match input {
        Input::Raw(bytes) => (bytes.clone(), None),
        Input::Text { v6, address, port } => {
            let from = source(*v6, *address, *port);
            let (family, to) = if *v6 { ("TCP6", "2001:db8::1") } else { ("TCP4", "192.0.2.1") };
            (format!("PROXY {family} {} {to} {port} 443\r\n", from.ip()).into_bytes(), Some(from.ip()))
        }
        Input::Binary { v6, address, port, local, tlvs } => {
            let from = source(*v6, *address, *port);
            let mut body = Vec::new();
            for ip in
                [from.ip(), if *v6 { "2001:db8::1".parse().unwrap() } else { "192.0.2.1".parse().unwrap() }]
            {
                match ip {
                    IpAddr::V4(ip) => body.extend(ip.octets()),
                    IpAddr::V6(ip) => body.extend(ip.octets()),
                }
            }
            body.extend(port.to_be_bytes());
            body.extend(443_u16.to_be_bytes());
            // One that is whole: what is told beside the address is not looked at.
            let tlvs = &tlvs[..tlvs.len().min(400)];
            if !tlvs.is_empty() {
                body.push(0xea);
                body.extend(u16::try_from(tlvs.len()).unwrap().to_be_bytes());
                body.extend(tlvs);
            }
            let mut bytes = SIGNATURE.to_vec();
            bytes.extend([if *local { 0x20 } else { 0x21 }, if *v6 { 0x21 } else { 0x11 }]);
            bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
            bytes.extend(body);
            (bytes, (!local).then(|| from.ip()))
        }
    }
}

fuzz_target!(|input: Input| {
    let (mut bytes, named) = encode(&input);
    if let Some(named) = named {
        RIG.forget(named.to_canonical());
    }
    let introduced = bytes.starts_with(b"PROXY ") || bytes.starts_with(SIGNATURE);
    bytes.extend(REQUEST);
    let (client, answer) = RIG.send(
        &bytes,
        Duration::from_millis(if matches!(input, Input::Raw(_)) { 30 } else { 5000 }),
        |_| false,
    );
    let of_peer = RIG.arrived(client).len();
    match (&input, named) {
        (Input::Raw(_), _) => assert!(introduced || of_peer == 0, "a request came without an introduction"),
        (_, Some(named)) => {
            assert!(
                answer.starts_with(b"HTTP/1.1 200 "),
                "{input:?}: {:?}",
                String::from_utf8_lossy(&answer)
            );
            assert_eq!(RIG.arrived(named.to_canonical()).len(), 1, "{input:?}: the client is who was named");
            assert!(of_peer == 0 || named.to_canonical() == client);
            RIG.forget(named.to_canonical());
        }
        (_, None) => assert_eq!(of_peer, 1, "{input:?}: the connection is its sender's own"),
    }
    RIG.forget(client);
});
