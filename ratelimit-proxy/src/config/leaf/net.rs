//! Addresses, networks and upstreams.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde_json::{Value, json};

use super::text;
use crate::config::decode::{Decode, Here};
use crate::config::fault::{Faults, shown};
use crate::config::schema::{Shapes, or_variable};
use crate::config::store::{StoreUrl, StoreUrlError};
use crate::upstream::{Target, TargetError};

/// A network, or one address.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) struct Net(pub(in crate::config) IpNet);

impl Decode for Net {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "a network", faults)?;
        let net = match text.parse::<IpAddr>() {
            Ok(address) => Ok(IpNet::from(address.to_canonical())),
            Err(_) => text.parse::<IpNet>().map(canonical),
        };
        let Ok(net) = net else {
            let hint = "write a network such as 10.0.0.0/8 or 2001:db8::/32, or an address";
            faults.refuse_with(&here.place, format!("{} is not a network", shown(text)), hint);
            return None;
        };
        if net.trunc() != net {
            let message = format!("{} has bits behind its prefix; {} is meant", shown(text), net.trunc());
            faults.warn(&here.place, message);
        }
        Some(Self(net.trunc()))
    }

    fn schema(_: &mut Shapes) -> Value {
        json!({"type": "string", "examples": ["10.0.0.0/8", "2001:db8::/32"]})
    }
}

/// A network of IPv4 addresses within IPv6 is a network of IPv4 addresses, as the addresses are.
fn canonical(net: IpNet) -> IpNet {
    match (net.addr().to_canonical(), net.prefix_len().checked_sub(96)) {
        (IpAddr::V4(address), Some(prefix)) if matches!(net, IpNet::V6(_)) => {
            IpNet::new(address.into(), prefix).unwrap_or(net)
        }
        _ => net,
    }
}

impl Decode for SocketAddr {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "an address", faults)?;
        text.parse()
            .map_err(|_| {
                let hint =
                    "write an IP address and a port, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080";
                faults.refuse_with(
                    &here.place,
                    format!("{} is not an address to listen on", shown(text)),
                    hint,
                );
            })
            .ok()
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(
            json!({"type": "string", "pattern": ":[0-9]+$", "examples": ["127.0.0.1:8080", "[::]:8080"]}),
        )
    }
}

impl Decode for Target {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "a URL", faults)?;
        text.parse()
            .map_err(|error: TargetError| match error {
                TargetError::Scheme | TargetError::NoHost => faults.refuse_with(
                    &here.place,
                    // Not the URL itself, which may hold a password.
                    error.to_string(),
                    "write one such as http://127.0.0.1:9000",
                ),
                error => faults.refuse(&here.place, error.to_string()),
            })
            .ok()
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(
            json!({"type": "string", "pattern": "^(http|https|h2c)://", "examples": ["http://127.0.0.1:9000"]}),
        )
    }
}

impl Decode for StoreUrl {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "a URL", faults)?;
        // Not the text itself, which may hold a password.
        let refuse = |error: StoreUrlError| {
            faults.refuse_with(&here.place, error.to_string(), StoreUrlError::HINT);
        };
        text.parse().map_err(refuse).ok()
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({
            "type": "string",
            "pattern": "^(redis|rediss|valkey|valkeys|unix)://",
            "examples": ["redis://127.0.0.1:6379"],
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_ipv4_within_ipv6() {
        let net = |text: &str| canonical(text.parse().unwrap()).to_string();
        assert_eq!(net("::ffff:10.0.0.0/104"), "10.0.0.0/8");
        assert_eq!(net("::ffff:10.1.2.3/128"), "10.1.2.3/32");
        assert_eq!(net("10.0.0.0/8"), "10.0.0.0/8");
        assert_eq!(net("2001:db8::/32"), "2001:db8::/32");
        assert_eq!(net("::/0"), "::/0");
    }
}
