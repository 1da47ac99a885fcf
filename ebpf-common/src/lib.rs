#![no_std]
//! What Pillion's eBPF programs and its agent say to each other: the keys and values of their maps.
//!
//! Every type is `repr(C)` without implicit padding (a padding byte would be part of a map key), and its size is
//! asserted. A change here is a new layout: raise [`LAYOUT_VERSION`].

/// The version of the maps' layout. It is part of the pin path, so an agent never reads another layout's maps.
pub const LAYOUT_VERSION: u32 = 1;

/// The port of the worker's outbound listener, on 127.0.0.1 and every IPv6 address of a captured pod (Istio's
/// number).
pub const OUTBOUND_PORT: u16 = 15001;

/// An IP address as the kernel stores it: network byte order, IPv4 as IPv4-mapped IPv6.
pub type Ip = [u32; 4];

/// An IP address and a TCP port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address {
    pub ip: Ip,
    /// In host byte order. 0 means "no address".
    pub port: u32,
}

/// What the programs know about one socket (the value of the socket-local storage `SOCKETS`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketRecord {
    /// One of the [`kind`]s.
    pub kind: u32,
    /// What it means depends on `kind`.
    pub address: Address,
}

/// The kinds of [`SocketRecord`].
pub mod kind {
    /// An app's captured client socket. The address is the destination that the app asked for.
    pub const CLIENT: u32 = 1;
    /// One of the agent's own sockets, never captured. The address is the one that the app at the other end is to
    /// see as its peer; port 0 means that it sees the true one.
    pub const AGENT: u32 = 2;
    /// An app's accepted socket whose other end is the agent. The address is the peer to show.
    pub const SERVER: u32 = 3;
    /// The agent's end of a captured connection. The address is the original destination.
    pub const ACCEPTED: u32 = 4;
}

/// Names a connection on its way from connect() to accept() (the key of `HANDOFF`).
///
/// The destination port is part of it because the kernel gives one source port to several sockets at a time, as
/// long as their destinations differ: an app's captured connection and the agent's connection to that app may
/// share theirs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HandoffKey {
    /// The cookie of the network namespace that both ends live in.
    pub netns: u64,
    /// The client's source address.
    pub source_ip: Ip,
    /// In host byte order.
    pub source_port: u32,
    /// In host byte order.
    pub destination_port: u32,
}

/// A captured pod (the value of `PODS`, whose key is the netns cookie).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodEntry {
    /// The pod's IPv4 address in network byte order; 0 when it has none.
    pub ip4: u32,
    /// The pod's IPv6 address; all zero when it has none.
    pub ip6: Ip,
    /// Bits of [`flags`].
    pub flags: u32,
}

/// The flags of a [`PodEntry`]: they spare a pod without exclusions the lookups.
pub mod flags {
    /// `EXCLUDED_PORTS` has entries of this pod.
    pub const HAS_EXCLUDED_PORTS: u32 = 1;
    /// `EXCLUDED_CIDRS` has entries of this pod.
    pub const HAS_EXCLUDED_CIDRS: u32 = 2;
}

/// A destination port that a pod keeps out of the mesh (a key of `EXCLUDED_PORTS`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExcludedPort {
    pub netns: u64,
    /// In host byte order.
    pub port: u32,
    /// Always 0: fills the key up to its alignment.
    pub zero: u32,
}

/// A destination network that a pod keeps out of the mesh (the data of a key of the trie `EXCLUDED_CIDRS`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExcludedCidr {
    pub netns: u64,
    pub ip: Ip,
}

impl ExcludedCidr {
    /// The bits of a key that name the pod; a network's own prefix length is added to them.
    pub const NETNS_BITS: u32 = 64;
    /// The bits of a key that names one address.
    pub const ALL_BITS: u32 = Self::NETNS_BITS + 128;
}

/// The values of `EXCLUDED_CIDRS`: the longest prefix decides.
pub mod cidr {
    pub const EXCLUDED: u8 = 1;
    /// Takes a part out of a larger network: `::/0` does not mean IPv4, although IPv4 is stored within it.
    pub const CAPTURED: u8 = 0;
}

/// The first 96 bits of an IPv4-mapped IPv6 address.
const MAPPED_PREFIX: [u32; 3] = [0, 0, 0xffff_u32.to_be()];

/// An IPv4 address (network byte order) as IPv4-mapped IPv6.
#[inline(always)]
pub const fn mapped(ip4: u32) -> Ip {
    [MAPPED_PREFIX[0], MAPPED_PREFIX[1], MAPPED_PREFIX[2], ip4]
}

/// The IPv4 address (network byte order) in an IPv4-mapped one.
#[inline(always)]
pub const fn unmapped(ip: &Ip) -> Option<u32> {
    if ip[0] == MAPPED_PREFIX[0] && ip[1] == MAPPED_PREFIX[1] && ip[2] == MAPPED_PREFIX[2] {
        Some(ip[3])
    } else {
        None
    }
}

const _: () = {
    assert!(size_of::<Address>() == 20);
    assert!(size_of::<SocketRecord>() == 24);
    assert!(size_of::<HandoffKey>() == 32);
    assert!(size_of::<PodEntry>() == 24);
    assert!(size_of::<ExcludedPort>() == 16);
    assert!(size_of::<ExcludedCidr>() == 24);
};

#[cfg(feature = "user")]
mod user {
    use super::*;

    // SAFETY (all of them): `repr(C)`, made of integers only, without padding; any bytes are a value.
    unsafe impl aya::Pod for SocketRecord {}
    unsafe impl aya::Pod for HandoffKey {}
    unsafe impl aya::Pod for PodEntry {}
    unsafe impl aya::Pod for ExcludedPort {}
    unsafe impl aya::Pod for ExcludedCidr {}
}
