//! Connections that the programs note by themselves, and each pod's share of the tables that they are noted in.

use crate::Address;

/// The two ends of a direct connection, in an order that is the same from both sides (the key of `FLOWS`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub low: Address,
    pub high: Address,
}

/// Who opened a connection, and to whom: the attestation (the value of `FLOWS`).
///
/// The entry goes with the last end that it knows of. Which ends there are is one word, `open`: 1 from the beginning (the
/// client's), one more when the server has accepted. Each end subtracts its one when it is gone, atomically, and whoever
/// then reads 0 removes the entry. The marks beside it keep an end from being counted twice.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The netns cookie of the client.
    pub client: u64,
    /// The netns cookie of the server: nobody else can accept.
    pub server: u64,
    /// When the entry was made (CLOCK_MONOTONIC, in nanoseconds): tells it from a later one of the same addresses.
    pub opened: u64,
    /// How many ends are open. Changed by atomic additions only.
    pub open: u64,
    /// The indices of the veths, on the node, of the two ends' pods: packets come by the one and go straight into the
    /// other. 0 and 0: the connection stays within its pod.
    pub low_device: u32,
    pub high_device: u32,
    /// How many bytes each end had received when its own direction was over (the low 32 bits): tells whether the peer's
    /// FIN is among those that came later.
    pub client_received: u32,
    pub server_received: u32,
    /// Whether the key's lower end is the client's: 1 or 0.
    pub client_is_low: u32,
    /// 1 once the client's socket is gone: then it attests nothing any more, and only leads the server's last packets.
    pub client_closed: u32,
    /// 1 while the server's socket is there.
    pub server_open: u32,
    /// Always 0: fills the value up to its alignment.
    pub zero: u32,
}

/// One end of a connection that the agent has found to be over (the packet that the program `end_flow` is run with, behind
/// an Ethernet header).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEnd {
    pub key: FlowKey,
    /// The [`Flow::opened`] of the entry that is meant.
    pub opened: u64,
    /// 1 for the client's end, 0 for the server's.
    pub is_client: u32,
    /// Always 0: fills the value up to its alignment.
    pub zero: u32,
}

/// How many entries of shared tables a pod has now (the value of `USAGE`, whose key is the netns cookie). Programs add and
/// subtract atomically; the agent makes the entry when it captures the pod. A pod without an entry gets none in those
/// tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In `HANDOFF`; at most [`quota::HANDOFF`].
    pub handoff: u64,
    /// In `FLOWS`: connections that the pod opened, and those of which it alone has kept its end; at most [`quota::FLOWS`].
    pub flows: u64,
    /// In `NODE_FLOWS`, of connections that the node opened to the pod; at most [`quota::NODE_FLOWS`].
    pub node_flows: u64,
}

/// How many entries of a shared table one pod may have: one pod alone never fills it. No pod that was met has a tenth of any.
pub mod quota {
    /// A pod's listener takes 4,096 connections that nobody has accepted yet (`net.core.somaxconn`).
    pub const HANDOFF: u64 = 16_384;
    /// More than a pod's connections to one address and port, of which the range of ports allows 28,232.
    pub const FLOWS: u64 = 32_768;
    /// Probes of a pod's containers, once a second each, that stay half open for a minute: 68 of them.
    pub const NODE_FLOWS: u64 = 4_096;
    /// As many as one annotation may have items.
    pub const EXCLUDED_PORTS: usize = 1_024;
    pub const EXCLUDED_CIDRS: usize = 1_024;
    /// Ports on which something else holds than on the pod's others.
    pub const INBOUND_PORTS: usize = 1_024;
    /// Networks in all the lists that the pod and its ports name. A list that several pods name counts for each.
    pub const SOURCES: usize = 2_048;
    /// Of the Services of one Kubernetes namespace.
    pub const SERVICES: usize = 2_048;
    pub const ENDPOINTS: usize = 8_192;
}

/// A connection that a socket of the node's own namespace has opened to a pod (the key of `NODE_FLOWS`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeFlow {
    pub client: Address,
    pub server: Address,
}

/// The tables that programs write, as `INSERTS_FAILED` numbers them.
pub mod table {
    pub const HANDOFF: u32 = 0;
    pub const FLOWS: u32 = 1;
    pub const SOCKETS: u32 = 2;
    pub const NODE_FLOWS: u32 = 3;
    /// Their names, by number.
    pub const NAMES: [&str; 4] = ["HANDOFF", "FLOWS", "SOCKETS", "NODE_FLOWS"];
}

impl FlowKey {
    /// The key, and whether the first end is its lower one.
    #[inline(always)]
    pub const fn new(one: Address, other: Address) -> (Self, bool) {
        if is_below(&one, &other) {
            (Self { low: one, high: other }, true)
        } else {
            (Self { low: other, high: one }, false)
        }
    }
}

/// Any total order does; the words that differ most often are looked at first.
#[inline(always)]
const fn is_below(one: &Address, other: &Address) -> bool {
    if one.ip[3] != other.ip[3] {
        return one.ip[3] < other.ip[3];
    }
    if one.port != other.port {
        return one.port < other.port;
    }
    if one.ip[2] != other.ip[2] {
        return one.ip[2] < other.ip[2];
    }
    if one.ip[1] != other.ip[1] {
        return one.ip[1] < other.ip[1];
    }
    one.ip[0] < other.ip[0]
}
