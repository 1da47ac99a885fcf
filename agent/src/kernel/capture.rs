//! What the node core says of a captured pod.

use crate::decide::SourceRules;
use ipnet::IpNet;
use pillion_ebpf_common::inbound;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

/// How one pod is captured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodCapture {
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    /// Destination ports that are never captured.
    pub excluded_ports: BTreeSet<u16>,
    /// Destination networks that are never captured.
    pub excluded_cidrs: Vec<IpNet>,
    /// What becomes of plaintext that comes to it.
    pub inbound: Inbound,
    /// Its connections from and to pods of this node may be direct, as far as its path allows it.
    pub direct: bool,
    /// Without a worker its connections go out plain.
    pub fails_open: bool,
}

/// What becomes of plaintext that arrives at a pod and that nobody attests, before policies are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InboundMode {
    /// It passes.
    Ignore,
    /// It passes, and is counted.
    #[default]
    Count,
    /// It is refused.
    Refuse,
}

/// What a pod does with plaintext.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inbound {
    pub default: InboundMode,
    /// Ports with a mode of their own.
    pub ports: BTreeMap<u16, InboundMode>,
    /// Ports that the node's own addresses may connect to whatever modes and policies say: the kubelet probes them.
    pub probed: BTreeSet<u16>,
    /// Ports that are not the mesh's business: they have neither mode nor rules.
    pub excluded: BTreeSet<u16>,
    /// What policies say.
    pub rules: PlainRules,
}

/// Who may connect to a pod in plain, as far as its modes let plaintext in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlainRules {
    /// `None`: policies say nothing.
    pub default: Option<SourceRules>,
    /// Ports with rules of their own, in the place of the default ones.
    pub ports: BTreeMap<u16, SourceRules>,
}

/// What becomes of plaintext on one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortRules<'a> {
    pub mode: InboundMode,
    pub sources: Option<&'a SourceRules>,
    /// The node's own addresses pass where others would not.
    pub spares_node: bool,
}

impl Inbound {
    /// What holds on all ports but those that differ.
    pub(super) fn of_others(&self) -> PortRules<'_> {
        PortRules { mode: self.default, sources: self.rules.default.as_ref(), spares_node: false }
    }

    /// Ports on which something else holds.
    pub(super) fn differing(&self) -> BTreeMap<u16, PortRules<'_>> {
        let named =
            self.ports.keys().chain(&self.probed).chain(&self.excluded).chain(self.rules.ports.keys());
        named.filter(|port| self.differs(**port)).map(|port| (*port, self.of_port(*port))).collect()
    }

    pub(super) fn differs(&self, port: u16) -> bool {
        self.of_port(port) != self.of_others()
    }

    fn of_port(&self, port: u16) -> PortRules<'_> {
        if self.excluded.contains(&port) {
            return PortRules { mode: InboundMode::Ignore, sources: None, spares_node: false };
        }
        let mode = self.ports.get(&port).copied().unwrap_or(self.default);
        let sources = self.rules.ports.get(&port).or(self.rules.default.as_ref());
        let may_be_refused = mode == InboundMode::Refuse || sources.is_some();
        PortRules { mode, sources, spares_node: may_be_refused && self.probed.contains(&port) }
    }
}

impl InboundMode {
    /// As the maps have it.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Ignore => inbound::IGNORE,
            Self::Count => inbound::COUNT,
            Self::Refuse => inbound::REFUSE,
        }
    }
}
