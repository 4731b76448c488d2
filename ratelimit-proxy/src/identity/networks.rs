//! [`Networks`]: a set of addresses, asked in logarithmic time. Decided by bits, never by text.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// The addresses of some networks. An IPv4 address inside IPv6 (`::ffff:0:0/96`) is the IPv4 address, in
/// networks and in addresses; nothing else is translated, NAT64 and 6to4 included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Networks {
    /// First and last address of ranges that are in order and apart.
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Networks {
    pub(crate) fn new(networks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match canonical(*network) {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self { v4: merged(v4), v6: merged(v6) }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => holds(&self.v4, address.to_bits()),
            IpAddr::V6(address) => holds(&self.v6, address.to_bits()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// A network of mapped addresses as the IPv4 network that it is.
pub(crate) fn canonical(network: IpNet) -> IpNet {
    let mapped = |net: ipnet::Ipv6Net| {
        let address = net.network().to_ipv4_mapped()?;
        Ipv4Net::new(address, net.prefix_len().checked_sub(96)?).ok()
    };
    match network {
        IpNet::V6(net) => mapped(net).map_or(network, IpNet::V4),
        IpNet::V4(_) => network,
    }
}

fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let overlap = next.0 <= kept.1;
        if overlap {
            kept.1 = kept.1.max(next.1);
        }
        overlap
    });
    ranges.into()
}

fn holds<T: Ord>(ranges: &[(T, T)], address: T) -> bool {
    let behind = ranges.partition_point(|(first, _)| *first <= address);
    behind.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| address <= *last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_mapped_network_is_the_ipv4_network() {
        let networks = Networks::new(&nets(&["::ffff:10.0.0.0/104", "2001:db8::/32"]));
        for (address, inside) in [
            ("10.9.9.9", true),
            ("::ffff:10.9.9.9", true),
            ("::ffff:a09:909", true),
            ("11.0.0.0", false),
            ("::10.9.9.9", false),
            ("64:ff9b::10.9.9.9", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(networks.contains(address.parse().unwrap()), inside, "{address}");
        }
        assert!(!Networks::new(&nets(&["::/0"])).contains("1.2.3.4".parse().unwrap()));
        assert!(Networks::new(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn agrees_with_asking_each_network(
            list in prop::collection::vec((any::<u32>(), 0u8..=32), 0..20), address: u32, near in any::<prop::sample::Index>(),
        ) {
            let list: Vec<_> = list.into_iter()
                .map(|(bits, length)| IpNet::V4(Ipv4Net::new(bits.into(), length).unwrap())).collect();
            let networks = Networks::new(&list);
            let mut asked = vec![IpAddr::from(address.to_be_bytes())];
            if !list.is_empty() {
                let net = list[near.index(list.len())];
                asked.extend([net.network(), net.broadcast()]);
            }
            for address in asked {
                prop_assert_eq!(networks.contains(address), list.iter().any(|net| net.contains(&address)));
            }
        }
    }
}
