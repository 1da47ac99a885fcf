//! Each pod's share of the tables that the agent writes: a pod that wants more goes without, alone. The programs see to the
//! tables that they write (`HANDOFF`, `FLOWS`, `NODE_FLOWS`).
//!
//! What is beyond a share is never written in part: half of a list would mean something else.

use super::capture::{Inbound, InboundMode, PodCapture};
use crate::decide::SourceRules;
use pillion_ebpf_common::quota;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

/// A table that a pod wants more of than its share, and so has nothing of what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    pub map: &'static str,
    pub wanted: usize,
    /// The most that the pod can have.
    pub share: usize,
    /// What follows for the pod.
    effect: &'static str,
}

const CAPTURES: &str = "nothing of the kind is kept out of the mesh";
const CLOSES: &str = "it takes no plaintext but from probes";

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { map, wanted, share, effect } = self;
        write!(f, "it asks for {wanted} entries of the table {map}, and a pod's share is {share}: {effect}")
    }
}

impl PodCapture {
    /// What the pod wants beyond its shares. Empty for a pod that is captured as it asks.
    pub fn excesses(&self) -> Vec<Excess> {
        let differing = self.inbound.differing();
        let rules = differing.values().copied().chain([self.inbound.of_others()]);
        let lists: BTreeSet<&SourceRules> = rules.filter_map(|rules| rules.sources).collect();
        // A list has an entry of its own besides: what it says of IPv4.
        let sources = lists.iter().map(|list| list.len() + 1).sum();
        [
            ("EXCLUDED_PORTS", self.excluded_ports.len(), quota::EXCLUDED_PORTS, CAPTURES),
            ("EXCLUDED_CIDRS", self.excluded_cidrs.len(), quota::EXCLUDED_CIDRS, CAPTURES),
            (INBOUND_PORTS, differing.len(), quota::INBOUND_PORTS, CLOSES),
            (SOURCES, sources, quota::SOURCES, CLOSES),
        ]
        .into_iter()
        .filter(|(_, wanted, share, _)| wanted > share)
        .map(|(map, wanted, share, effect)| Excess { map, wanted, share, effect })
        .collect()
    }
}

const INBOUND_PORTS: &str = "INBOUND_PORTS";
const SOURCES: &str = "SOURCES";

/// The pod as it is written: without what is beyond its shares.
pub fn within(pod: &PodCapture) -> Cow<'_, PodCapture> {
    let excesses = pod.excesses();
    if excesses.is_empty() {
        return Cow::Borrowed(pod);
    }
    let mut pod = pod.clone();
    for excess in excesses {
        match excess.map {
            INBOUND_PORTS | SOURCES => pod.inbound = closed(&pod.inbound),
            "EXCLUDED_PORTS" => pod.excluded_ports.clear(),
            _ => pod.excluded_cidrs.clear(),
        }
    }
    Cow::Owned(pod)
}

/// No plaintext, but for probes.
fn closed(inbound: &Inbound) -> Inbound {
    let probed = inbound.probed.iter().copied().take(quota::INBOUND_PORTS).collect();
    Inbound { default: InboundMode::Refuse, probed, ..Inbound::default() }
}

#[cfg(test)]
mod tests {
    use super::super::capture::PlainRules;
    use super::*;
    use ipnet::IpNet;
    use std::net::{IpAddr, Ipv4Addr};

    fn list(count: u32, first: u32) -> SourceRules {
        let networks = (first..first + count).map(|ip| IpNet::from(IpAddr::from(Ipv4Addr::from(ip))));
        networks.map(|network| (network, true)).collect()
    }

    fn wanted(pod: &PodCapture) -> Vec<(&'static str, usize)> {
        pod.excesses().into_iter().map(|excess| (excess.map, excess.wanted)).collect()
    }

    // proves: SEC-3
    #[test]
    fn a_pod_within_its_shares_is_written_as_it_asks() {
        let ports = 1..=quota::INBOUND_PORTS as u16;
        let pod = PodCapture {
            excluded_ports: ports.clone().collect(),
            excluded_cidrs: list(quota::EXCLUDED_CIDRS as u32, 0).into_keys().collect(),
            inbound: Inbound {
                ports: ports.map(|port| (port, InboundMode::Refuse)).collect(),
                ..Inbound::default()
            },
            ..PodCapture::default()
        };
        assert!(matches!(within(&pod), Cow::Borrowed(_)));
    }

    // proves: SEC-3
    #[test]
    fn what_is_beyond_one_share_leaves_the_others_as_they_are() {
        let pod = PodCapture {
            excluded_ports: (1..=1_025).collect(),
            excluded_cidrs: list(10, 0).into_keys().collect(),
            ..PodCapture::default()
        };
        assert_eq!(wanted(&pod), [("EXCLUDED_PORTS", 1_025)]);
        let written = within(&pod);
        assert!(written.excluded_ports.is_empty() && written.excluded_cidrs.len() == 10);
        assert_eq!(
            pod.excesses()[0].to_string(),
            "it asks for 1025 entries of the table EXCLUDED_PORTS, and a pod's share is 1024: nothing of the kind is kept out of \
             the mesh"
        );
    }

    // proves: SEC-3
    #[test]
    fn lists_count_once_for_a_pod_and_too_many_close_it_but_for_probes() {
        let rules = |of_port: SourceRules| PlainRules {
            default: Some(list(1_000, 0)),
            ports: (1..=50).map(|port| (port, of_port.clone())).collect(),
        };
        let pod = |rules| PodCapture {
            inbound: Inbound { rules, probed: [80].into(), ..Inbound::default() },
            ..PodCapture::default()
        };
        assert_eq!(wanted(&pod(rules(list(1_000, 5_000)))), [], "two lists, whatever names them");
        let beyond = pod(rules(list(1_047, 5_000)));
        assert_eq!(wanted(&beyond), [("SOURCES", 2_049)]);
        let written = within(&beyond);
        assert_eq!(
            (written.inbound.default, written.inbound.rules == PlainRules::default()),
            (InboundMode::Refuse, true)
        );
        assert_eq!(written.inbound.probed, [80].into());
    }
}
