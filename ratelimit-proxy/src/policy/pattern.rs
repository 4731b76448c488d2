//! [`Pattern`]: what a value is compared with.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use super::source::{Value, masked};
use crate::config::words::Glob;
use crate::identity::Networks;

/// A pattern of a value.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    /// Whatever it is.
    Any,
    /// These bytes.
    Text(Box<[u8]>),
    /// This address.
    Address(IpAddr),
    /// An address in this network.
    Network(Networks),
    /// A text with `*` in it.
    Glob(Glob),
}

impl Pattern {
    /// For values that are text.
    pub(super) fn text(glob: &Glob) -> Self {
        if glob.is_any() {
            Self::Any
        } else if glob.as_str().contains('*') {
            Self::Glob(glob.clone())
        } else {
            Self::Text(glob.as_str().as_bytes().into())
        }
    }

    /// For values that can be the client's address. A pattern that is an address or a network means just that,
    /// decided by bits: no other value of the key's can imitate it. Since an IPv6 client is its network of so
    /// many bits, a pattern can't tell apart what is within one.
    pub(super) fn address(glob: &Glob, ipv6_prefix: u8) -> Self {
        let text = glob.as_str();
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let Ok(network) = network.map(crate::identity::canonical) else { return Self::text(glob) };
        match network {
            IpNet::V4(net) if net.prefix_len() == 32 => Self::Address(net.addr().into()),
            IpNet::V6(net) if net.prefix_len() >= ipv6_prefix => {
                Self::Address(masked(net.addr().into(), ipv6_prefix))
            }
            _ => Self::Network(Networks::new(&[network])),
        }
    }

    /// Whether it fits a value; only [`Pattern::Any`] fits one that is missing.
    pub(super) fn fits(&self, value: Option<&Value<'_>>) -> bool {
        match (self, value) {
            (Self::Any, _) => true,
            (_, None) => false,
            (pattern, Some(Value::Text(text))) => pattern.fits_text(text),
            (Self::Address(wanted), Some(Value::Address(address))) => address == wanted,
            (Self::Network(networks), Some(Value::Address(address))) => networks.contains(*address),
            (Self::Glob(glob), Some(Value::Address(address))) => glob.fits(Written::new(*address).as_bytes()),
            (Self::Text(_), Some(Value::Address(_))) => false,
        }
    }

    /// Whether it fits a text.
    pub(super) fn fits_text(&self, text: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Text(wanted) => **wanted == *text,
            Self::Glob(glob) => glob.fits(text),
            Self::Address(_) | Self::Network(_) => false,
        }
    }
}

/// An address as text, without memory of its own.
struct Written {
    bytes: [u8; 48],
    length: usize,
}

impl Written {
    fn new(address: IpAddr) -> Self {
        let mut written = Self { bytes: [0; 48], length: 0 };
        // The longest address has 45 characters.
        let _ = write!(written, "{address}");
        written
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl std::fmt::Write for Written {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    #[test]
    fn addresses_are_told_by_bits() {
        for (pattern, address, fits) in [
            ("1.2.3.4", "1.2.3.4", true),
            ("::ffff:102:304", "1.2.3.4", true),
            ("1.2.3.0/24", "1.2.3.4", true),
            ("::ffff:1.2.3.0/120", "1.2.3.4", true),
            ("1.2.4.0/24", "1.2.3.4", false),
            ("1.2.3.*", "1.2.3.4", true),
            ("2001:DB8:0:0::1", "2001:db8::9", true),
            ("2001:db8::/32", "2001:db8:5::1", true),
            ("2001:db8::/128", "2001:db8::9", true),
            ("2001:db9::1", "2001:db8::1", false),
            ("gold", "1.2.3.4", false),
            ("*", "1.2.3.4", true),
        ] {
            let value = Value::Address(masked(address.parse().unwrap(), 64));
            assert_eq!(
                Pattern::address(&Glob::new(pattern), 64).fits(Some(&value)),
                fits,
                "{pattern} {address}"
            );
        }
    }

    #[test]
    fn a_text_can_not_imitate_an_address() {
        let text = Value::Text(Cow::Borrowed(b"1.2.3.4"));
        assert!(!Pattern::address(&Glob::new("1.2.3.4"), 64).fits(Some(&text)));
        assert!(Pattern::text(&Glob::new("1.2.3.4")).fits(Some(&text)));
    }

    #[test]
    fn only_a_star_fits_what_is_missing() {
        for (pattern, fits) in [("*", true), ("", false), ("a*", false), ("**", false)] {
            assert_eq!(Pattern::text(&Glob::new(pattern)).fits(None), fits, "{pattern}");
        }
    }
}
