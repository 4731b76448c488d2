//! [`Identity`]: the client's address, from the peer's and from what trusted proxies wrote.
//!
//! Only the right end of the field is a proxy's word; everything left of the first address that is not
//! trusted is whatever the client liked to send, and is not looked at. What is no address (`unknown`, `_x`, a
//! name, garbage) ends the walk at the last good hop: that can put clients into one bucket, and never lets
//! one choose its own.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName};

use super::networks::Networks;
use super::{forwarded, node};
use crate::config::{ClientIp, Trust};

/// Hops that are followed at most where proxies are known by their networks. Nobody has as many proxies; a
/// client that is in a trusted network itself could make us read more.
const MAX_HOPS: usize = 64;

/// How the client's address is found. The word of the field is taken if the peer is trusted:
///
/// * `x-forwarded-for` and `forwarded` are lists that each proxy appends its peer to. All lines count, joined in
///   order. With trusted networks the walk goes from right to left over the trusted addresses and ends at the
///   first other one; if all are trusted, at the leftmost.
/// * With `hops: n` the peer is the first hop and the client the `n`-th address from the right of the list:
///   one proxy in front (`hops: 1`) means its last entry. With fewer entries it is the leftmost one. This is
///   what `trust proxy` means in Express. Everyone who can connect is believed, so a firewall has to
///   keep clients from passing by the proxies.
/// * Any other field holds one address, that of the client: the last one if there are several.
#[derive(Clone, Debug)]
pub struct Identity {
    trusted: Trusted,
    form: Form,
    header: HeaderName,
}

#[derive(Clone, Debug)]
enum Trusted {
    Nobody,
    Networks(Networks),
    Hops(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    List,
    Forwarded,
    Single,
}

impl Identity {
    /// Compiles what the configuration says.
    #[must_use]
    pub fn new(client_ip: &ClientIp) -> Self {
        let form = match &client_ip.header {
            name if *name == header::FORWARDED => Form::Forwarded,
            name if name == "x-forwarded-for" => Form::List,
            _ => Form::Single,
        };
        let trusted = match &client_ip.trust {
            Trust::Nobody => Trusted::Nobody,
            Trust::Proxies(networks) => Trusted::Networks(Networks::new(networks)),
            Trust::Hops(hops) => Trusted::Hops(*hops),
        };
        Self { trusted, form, header: client_ip.header.clone() }
    }

    /// The address of the client behind `peer`, an IPv4 address inside IPv6 as the IPv4 address.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer;
        }
        let lines = headers.get_all(&self.header).iter().rev().map(http::HeaderValue::as_bytes);
        match self.form {
            Form::List => self.walk(peer, lines.flat_map(list).map(node::address)),
            Form::Forwarded => self.walk(peer, lines.flat_map(forwarded::elements).map(forwarded::client)),
            Form::Single => lines.flat_map(list).next().and_then(node::address).unwrap_or(peer),
        }
    }

    /// Whether a peer is a proxy whose word is taken.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.passes(peer, 0)
    }

    /// The field that carries the address, if anyone's word is taken.
    #[must_use]
    pub fn header(&self) -> Option<&HeaderName> {
        (!matches!(self.trusted, Trusted::Nobody)).then_some(&self.header)
    }

    fn walk(&self, peer: IpAddr, hops: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        let most = match self.trusted {
            Trusted::Hops(hops) => hops.into(),
            Trusted::Nobody | Trusted::Networks(_) => MAX_HOPS,
        };
        let mut last = peer;
        for (number, hop) in (1..=most).zip(hops) {
            let Some(hop) = hop else { break };
            last = hop;
            if !self.passes(hop, number) {
                break;
            }
        }
        last
    }

    /// Whether to look beyond an address that is so many hops behind the peer.
    fn passes(&self, address: IpAddr, number: usize) -> bool {
        match &self.trusted {
            Trusted::Nobody => false,
            Trusted::Networks(networks) => networks.contains(address),
            Trusted::Hops(hops) => number < usize::from(*hops),
        }
    }
}

/// The elements of one line, from the right; empty ones are left out (RFC 9110 §5.6.1).
fn list(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn identity(header: &'static str, trust: Trust) -> Identity {
        Identity::new(&ClientIp { trust, header: HeaderName::from_static(header), ..ClientIp::default() })
    }

    fn proxies(networks: &[&str]) -> Trust {
        Trust::Proxies(networks.iter().map(|network| network.parse().unwrap()).collect())
    }

    fn ask(identity: &Identity, peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&identity.header, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        identity.client(peer.parse().unwrap(), &headers).to_string()
    }

    /// Faults row 38: duplicate lines, garbage, `unknown`; row 119: spoofing.
    #[test]
    fn the_walk_ends_at_the_first_that_is_not_trusted() {
        let ten = identity("x-forwarded-for", proxies(&["10.0.0.0/8", "2001:db8:1::/48"]));
        for (peer, lines, client) in [
            ("9.9.9.9", &["1.1.1.1"][..], "9.9.9.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            ("::ffff:10.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            ("10.0.0.1", &["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
            ("10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.0.0.2"], "1.1.1.1"),
            ("10.0.0.1", &["6.6.6.6, 1.1.1.1, ::ffff:10.0.0.2, [2001:db8:1::9]:80"], "1.1.1.1"),
            ("10.0.0.1", &["6.6.6.6", "1.1.1.1", "10.0.0.2"], "1.1.1.1"),
            ("10.0.0.1", &["1.1.1.1,, ,"], "1.1.1.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["1.1.1.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1, _hidden, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["1.1.1.1, \"10.0.0.2\""], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1:4711"], "1.1.1.1"),
            ("10.0.0.1", &["fe80::1%eth0"], "fe80::1"),
            ("10.0.0.1", &["::ffff:102:304"], "1.2.3.4"),
        ] {
            assert_eq!(ask(&ten, peer, lines), client, "{peer} {lines:?}");
        }
    }

    /// Faults row 38: ten thousand entries.
    #[test]
    fn a_long_list_is_followed_so_far() {
        let ten = identity("x-forwarded-for", proxies(&["10.0.0.0/8"]));
        let entries: Vec<_> = (0..10_000).map(|n| format!("10.1.{}.{}", n / 250, n % 250)).collect();
        assert_eq!(ask(&ten, "10.0.0.1", &[&entries.join(",")]), entries[10_000 - MAX_HOPS]);
        assert_eq!(ask(&ten, "10.0.0.1", &[&format!("{}, 7.7.7.7", entries.join(","))]), "7.7.7.7");
        assert_eq!(ask(&ten, "10.0.0.1", &[&",".repeat(60_000)]), "10.0.0.1");
    }

    #[test]
    fn hops_count_the_peer_as_the_first() {
        let one = identity("x-forwarded-for", Trust::Hops(1));
        let two = identity("x-forwarded-for", Trust::Hops(2));
        assert_eq!(ask(&one, "9.9.9.9", &["6.6.6.6, 1.1.1.1"]), "1.1.1.1");
        assert_eq!(ask(&two, "9.9.9.9", &["6.6.6.6, 1.1.1.1, 2.2.2.2"]), "1.1.1.1");
        assert_eq!(ask(&two, "9.9.9.9", &["6.6.6.6", "1.1.1.1", "2.2.2.2"]), "1.1.1.1");
        assert_eq!(ask(&two, "9.9.9.9", &["1.1.1.1"]), "1.1.1.1");
        assert_eq!(ask(&two, "9.9.9.9", &["1.1.1.1, unknown"]), "9.9.9.9");
        assert_eq!(ask(&two, "9.9.9.9", &["unknown, 2.2.2.2"]), "2.2.2.2");
        assert_eq!(ask(&one, "9.9.9.9", &[]), "9.9.9.9");
        assert!(one.trusts("9.9.9.9".parse().unwrap()));
    }

    #[test]
    fn forwarded_and_single_fields() {
        let list = identity("forwarded", proxies(&["10.0.0.0/8"]));
        assert_eq!(
            ask(&list, "10.0.0.1", &["for=6.6.6.6, for=\"[2001:db8::1]:4711\";proto=https"]),
            "2001:db8::1"
        );
        assert_eq!(ask(&list, "10.0.0.1", &["for=1.1.1.1", "for=10.0.0.2"]), "1.1.1.1");
        assert_eq!(ask(&list, "10.0.0.1", &["for=1.1.1.1, proto=http"]), "10.0.0.1");
        assert_eq!(ask(&list, "9.9.9.9", &["for=1.1.1.1"]), "9.9.9.9");
        let single = identity("cf-connecting-ip", proxies(&["10.0.0.0/8"]));
        assert_eq!(ask(&single, "10.0.0.1", &["1.1.1.1"]), "1.1.1.1");
        assert_eq!(ask(&single, "10.0.0.1", &["6.6.6.6", "10.0.0.7"]), "10.0.0.7");
        assert_eq!(ask(&single, "10.0.0.1", &["unknown"]), "10.0.0.1");
        assert_eq!(ask(&single, "9.9.9.9", &["1.1.1.1"]), "9.9.9.9");
        let nobody = identity("x-forwarded-for", Trust::Nobody);
        assert_eq!(ask(&nobody, "9.9.9.9", &["1.1.1.1"]), "9.9.9.9");
        assert!(!nobody.trusts("9.9.9.9".parse().unwrap()));
    }

    proptest! {
        /// What a client sends before a proxy's word changes nothing.
        #[test]
        fn nobody_can_spoof_through_a_proxy(evil in prop::collection::vec("[ -~]{0,40}", 0..4), client: IpAddr) {
            let client = client.to_canonical();
            for (header, word) in [
                ("x-forwarded-for", client.to_string()),
                ("forwarded", match client {
                    IpAddr::V4(client) => format!("for={client}"),
                    IpAddr::V6(client) => format!("for=\"[{client}]\""),
                }),
            ] {
                for trust in [proxies(&["127.0.0.1/32"]), Trust::Hops(1)] {
                    let identity = identity(header, trust);
                    let mut lines: Vec<&str> = evil.iter().map(String::as_str).collect();
                    lines.push(&word);
                    prop_assert_eq!(ask(&identity, "127.0.0.1", &lines), client.to_string());
                    let joined = lines.join(", ");
                    prop_assert_eq!(ask(&identity, "127.0.0.1", &[&joined]), client.to_string());
                }
            }
        }
    }
}
