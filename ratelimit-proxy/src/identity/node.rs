//! One address as proxies write it in `X-Forwarded-For`, `Forwarded` and their kin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address of a node: `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`,
/// an IPv4 address inside IPv6 as the IPv4 address. The zone of an IPv6 address (`%eth0`) means something on
/// the machine that wrote it only and is left out, as is the port, which may be obfuscated (`_x`).
///
/// Everything else is `None`: names, `unknown`, obfuscated nodes (`_x`), numbers with leading zeros.
#[must_use]
pub fn address(node: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(node).ok()?;
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let proper = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return if proper { v6(address) } else { None };
    }
    match text.split_once(':') {
        None => v4(text),
        Some((address, port)) if !port.contains(':') => is_port(port).then(|| v4(address)).flatten(),
        Some(_) => v6(text),
    }
}

fn v4(text: &str) -> Option<IpAddr> {
    text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

fn v6(text: &str) -> Option<IpAddr> {
    let address = match text.split_once('%') {
        Some((_, "")) => return None,
        Some((address, _zone)) => address,
        None => text,
    };
    address.parse::<Ipv6Addr>().ok().map(|address| IpAddr::V6(address).to_canonical())
}

/// RFC 7239 §6: `1*5DIGIT` or `_` and a word.
fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(word) => {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        }
        None => (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Faults row 38 and 118: ports, brackets, zones, `unknown`, IPv4 inside IPv6 in four notations.
    #[test]
    fn nodes() {
        for (node, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:4711", Some("192.0.2.1")),
            ("192.0.2.1:_gazonk", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("2001:DB8:0::0:1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:4711", Some("2001:db8::1")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("[fe80::1%25eth0]:1", Some("fe80::1")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("::ffff:102:304", Some("1.2.3.4")),
            ("0:0:0:0:0:FFFF:0102:0304", Some("1.2.3.4")),
            ("[::ffff:1.2.3.4]:80", Some("1.2.3.4")),
            ("64:ff9b::1.2.3.4", Some("64:ff9b::102:304")),
            ("2001:db8::1.2.3.4", Some("2001:db8::102:304")),
            ("2002:102:304::", Some("2002:102:304::")),
            ("::1.2.3.4", Some("::102:304")),
            ("", None),
            ("unknown", None),
            ("_hidden", None),
            ("localhost", None),
            ("1.2.3", None),
            ("01.2.3.4", None),
            ("1.2.3.4:", None),
            ("1.2.3.4:x", None),
            ("1.2.3.4:123456", None),
            ("1.2.3.4 ", None),
            ("[1.2.3.4]", None),
            ("[2001:db8::1", None),
            ("[2001:db8::1]x", None),
            ("2001:db8::1%", None),
            ("2001:db8:::1", None),
            ("1.2.3.4, 5.6.7.8", None),
            ("\u{661}.2.3.4", None),
        ] {
            assert_eq!(address(node.as_bytes()), expected.map(|text| text.parse().unwrap()), "{node}");
        }
        assert_eq!(address(b"1.2.3.\xff"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(v4: Ipv4Addr, v6: Ipv6Addr, port: u16) {
            let canonical = IpAddr::V6(v6).to_canonical();
            prop_assert_eq!(address(v4.to_string().as_bytes()), Some(v4.into()));
            prop_assert_eq!(address(format!("{v4}:{port}").as_bytes()), Some(v4.into()));
            prop_assert_eq!(address(v6.to_string().as_bytes()), Some(canonical));
            prop_assert_eq!(address(format!("[{v6}]:{port}").as_bytes()), Some(canonical));
        }
    }
}
