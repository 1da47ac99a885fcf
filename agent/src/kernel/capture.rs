//! What the node core says of a captured pod.

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

/// What becomes of plaintext that arrives at a pod and that nobody attests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InboundMode {
    /// It is none of the mesh's business.
    Ignore,
    /// It passes, and is counted.
    #[default]
    Count,
    /// It is refused.
    Refuse,
    /// It is refused, but for the node's own addresses.
    RefuseAllButNode,
}

/// The inbound modes of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inbound {
    pub default: InboundMode,
    /// Ports that differ.
    pub ports: BTreeMap<u16, InboundMode>,
}

impl InboundMode {
    /// As the maps have it.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Ignore => inbound::IGNORE,
            Self::Count => inbound::COUNT,
            Self::Refuse => inbound::REFUSE,
            Self::RefuseAllButNode => inbound::REFUSE_ALL_BUT_NODE,
        }
    }
}
