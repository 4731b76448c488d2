//! What a request shows of a configuration, beside what its limits say to it.

use std::net::IpAddr;

use http::header::{self, HeaderMap};

use super::{Policy, Rule, RuleMode};
use crate::facts::Facts;

impl Policy {
    /// For each limit that is about a request, its place among the rules, and whether the request lacks a value of its
    /// key. Nothing for a request that is exempt.
    pub(crate) fn survey(&self, facts: &Facts<'_>, mut met: impl FnMut(usize, bool)) {
        if self.exemption(facts).is_some() {
            return;
        }
        for (number, rule) in self.rules.iter().enumerate() {
            if rule.mode != RuleMode::Off && rule.matcher.fails(facts).is_none() {
                // What can be read in several ways is there.
                let values = rule.key.read(facts);
                met(number, values.is_ok_and(|values| values.iter().any(|found| found.value.is_none())));
            }
        }
    }

    /// Whether a request tells of a client before its peer, and its peer is not believed.
    pub(crate) fn tells_in_vain(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        (headers.contains_key("x-forwarded-for") || headers.contains_key(header::FORWARDED))
            && !self.trusts(peer)
    }
}

impl Rule {
    /// Whether its key can be the client's address.
    pub(crate) fn counts_by_address(&self) -> bool {
        self.key.addresses().any(|address| address)
    }
}
