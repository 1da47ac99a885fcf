#![no_std]
//! What Pillion's eBPF programs and its agent say to each other: the keys and values of their maps.
//!
//! Every type is `repr(C)` without implicit padding (a padding byte would be part of a map key), and its size is
//! asserted. A change here is a new layout: raise [`LAYOUT_VERSION`].

mod flows;

pub use flows::{Flow, FlowEnd, FlowKey, NodeFlow, Usage, quota, table};

/// The version of the maps' layout. It is part of the pin path, so an agent never reads another layout's maps.
pub const LAYOUT_VERSION: u32 = 6;

/// The port of the worker's outbound listener, on 127.0.0.1 and every IPv6 address of a captured pod (Istio's
/// number).
pub const OUTBOUND_PORT: u16 = 15001;

/// The port of a worker's HBONE listener, on every address of a captured pod (Istio's number).
pub const HBONE_PORT: u16 = 15008;

/// An IP address as the kernel stores it: network byte order, IPv4 as IPv4-mapped IPv6.
pub type Ip = [u32; 4];

/// An IP address and a TCP port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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
    /// Where the connection goes, or should go: the endpoint that the hook has chosen where `address` is a Service's.
    /// Port 0: none was chosen.
    pub target: Address,
    /// What the app had set on its socket. Of kinds other than [`kind::CLIENT`] and [`kind::ACCEPTED`] it says nothing.
    pub manner: Manner,
}

/// What an app had set on its socket when it called connect(), as far as it concerns the network beyond the pod: the worker
/// opens a plain connection in the same manner. 0 is the kernel's default of each.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// SO_MARK.
    pub mark: u32,
    /// The index of the device that the socket was bound to.
    pub device: u32,
    /// TCP_USER_TIMEOUT, in milliseconds.
    pub user_timeout: u32,
    /// TCP_KEEPIDLE, in seconds; 0 where SO_KEEPALIVE was off.
    pub keepalive_idle: u16,
    /// TCP_KEEPINTVL, in seconds.
    pub keepalive_interval: u16,
    /// The port that the socket was bound to, in host byte order. 0 also where the kernel had chosen none yet.
    pub port: u16,
    /// TCP_KEEPCNT.
    pub keepalive_probes: u8,
    /// IP_TOS or IPV6_TCLASS: DSCP and ECN.
    pub traffic_class: u8,
    /// 1 where the socket was bound to an address. The connect hook binds others to the pod's own.
    pub has_address: u32,
}

/// The kinds of [`SocketRecord`].
pub mod kind {
    /// Nothing is known any more.
    pub const NONE: u32 = 0;
    /// An app's captured client socket. The address is the destination that the app asked for.
    pub const CLIENT: u32 = 1;
    /// One of the agent's own sockets, towards peers and the outside. It is never captured, and nothing is presented to
    /// the other end.
    pub const AGENT: u32 = 2;
    /// An app's accepted socket whose other end is the agent. The address is the peer to show.
    pub const SERVER: u32 = 3;
    /// The agent's end of a captured connection. The address is the original destination.
    pub const ACCEPTED: u32 = 4;
    /// An app's client socket on the direct path to a Service's endpoint. The address is what the app asked for, the
    /// target where it goes. (A direct connection to a pod's own address needs no record.)
    pub const DIRECT: u32 = 5;
    /// The agent's socket to an app of the pod, never captured. The address is the one that the app is to see as its
    /// peer. A guard lets the connection in only as long as `HANDOFF` has it: without an entry the app would see
    /// loopback.
    pub const TO_APP: u32 = 6;
    /// The worker's outbound listener. The connect hook sends connections to no other listener on its port.
    pub const WORKER: u32 = 7;
    /// An app's client socket that the connect hook has let go in plain because the pod asks for that where no worker listens.
    pub const OPEN: u32 = 8;
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
    /// The index of the pod's veth on the node; 0 where the kernel does not own the pod's path.
    pub device: u32,
}

/// The flags of a [`PodEntry`].
pub mod flags {
    /// `EXCLUDED_PORTS` has entries of this pod: a pod without any is spared the lookup.
    pub const HAS_EXCLUDED_PORTS: u32 = 1;
    /// `EXCLUDED_CIDRS` has entries of this pod.
    pub const HAS_EXCLUDED_CIDRS: u32 = 2;
    /// The pod's connections may take the direct path, and are attested.
    pub const DIRECT: u32 = 4;
    /// Without a worker the pod's connections go out plain; without this flag they are refused.
    pub const FAIL_OPEN: u32 = 8;
}

/// An address of a captured pod of this node (the value of `LOCAL_PODS`, whose key is the address).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalPod {
    pub netns: u64,
    /// The index of the pod's veth on the node, as long as packets of direct connections go straight there; 0 where
    /// the kernel does not own the pod's path.
    pub device: u32,
    /// What becomes of plaintext that nobody attests, on ports without an entry of their own: one of [`inbound`]'s
    /// modes.
    pub inbound: u32,
    /// Bits of [`local_flags`].
    pub flags: u32,
    /// Who may connect in plain, on the same ports: a list in `SOURCES`, or [`list::NONE`].
    pub sources: u32,
}

/// The flags of a [`LocalPod`].
pub mod local_flags {
    /// New connections to the pod may take the direct path.
    pub const DIRECT: u32 = 1;
    /// `INBOUND_PORTS` has entries of this pod.
    pub const HAS_PORTS: u32 = 2;
    /// The pod has left the mesh: nothing of it is attested any more, and its guard is about to go.
    pub const LEAVING: u32 = 4;
}

/// What becomes of plaintext on one port of a pod (the value of `INBOUND_PORTS`). It says all there is to say of the
/// port: what the pod's own entry says holds for the others only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InboundPort {
    /// One of [`inbound`]'s modes.
    pub mode: u32,
    /// Who may connect: a list in `SOURCES`, or [`list::NONE`].
    pub sources: u32,
    /// 1 where the kubelet probes: the node's own addresses pass, whatever mode and list say.
    pub probed: u32,
}

/// What becomes of plaintext that arrives at a captured pod and that nobody attests.
pub mod inbound {
    /// It passes (PeerAuthentication DISABLE, an excluded port).
    pub const IGNORE: u32 = 0;
    /// It passes, and is counted (PERMISSIVE).
    pub const COUNT: u32 = 1;
    /// It is refused with a RST, and counted (STRICT).
    pub const REFUSE: u32 = 2;
}

/// One network in a list of who may connect in plain (the data of a key of the trie `SOURCES`). The longest prefix
/// decides; nobody may who is in no network of the list.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Source {
    /// Names the list. A list never changes: another one has another name.
    pub list: u32,
    pub ip: Ip,
}

/// Names of lists that are never written.
pub mod list {
    /// Policies say nothing: everybody may connect.
    pub const NONE: u32 = 0;
    /// Nobody may.
    pub const NOBODY: u32 = 1;
}

/// The values of `SOURCES`.
pub mod source {
    pub const DENIED: u8 = 0;
    pub const ALLOWED: u8 = 1;
}

/// What the kernel counts of a pod (the key of `COUNTS`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CountKey {
    pub netns: u64,
    /// One of [`count`].
    pub what: u32,
    /// Always 0: fills the key up to its alignment.
    pub zero: u32,
}

/// What is counted of a pod.
pub mod count {
    /// Plain connections that nobody attests, and that passed.
    pub const PLAIN: u32 = 0;
    /// Plain connections that were refused.
    pub const REFUSED: u32 = 1;
    /// Packets that left the pod under an address that is not its own, and were dropped.
    pub const FOREIGN_SOURCE: u32 = 2;
    /// Packets of a direct connection that came to the pod by another way, and were dropped.
    pub const FORGED: u32 = 3;
    /// Plain connections that the mode lets pass, and that were refused because policies do not allow their source.
    pub const DENIED: u32 = 4;
    /// Connections that the pod opened in plain, that neither an entry of `FLOWS` attests nor the pod asks for, and that were
    /// refused: at its veth, or before their SYN.
    pub const UNATTESTED: u32 = 5;
    /// How many there are.
    pub const ALL: u32 = 6;
}

/// "Connections from this pod to that pod's port may go directly" (a key of `VERDICTS`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// The client's netns cookie.
    pub source: u64,
    /// The server's netns cookie.
    pub destination: u64,
    /// The generation that it was made under; under any other it is worth nothing.
    pub generation: u64,
    /// The server's port, in host byte order.
    pub port: u32,
    /// Always 0: fills the key up to its alignment.
    pub zero: u32,
}

/// The node's own network namespace (the value of `NODE`, an array of one).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its netns cookie; 0 while the agent has not said it.
    pub netns: u64,
    /// 1 where a probe is known by the node's addresses alone, because the hooks do not see the kubelet's sockets.
    pub probes_by_address: u32,
    /// Always 0: fills the value up to its alignment.
    pub zero: u32,
}

/// The pod behind a veth of the node (the value of `DEVICES`, whose key is the veth's index).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    pub netns: u64,
    /// The pod's addresses: packets from it bear one of them. 0 and zeroes: it has none.
    pub ip4: u32,
    pub ip6: Ip,
    /// Always 0: fills the value up to its alignment.
    pub zero: u32,
}

/// The endpoints of a Service's port (the value of `SERVICES`, whose key is the cluster IP and port).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Names the list of endpoints in `ENDPOINTS`; another list has another name.
    pub list: u32,
    /// How many there are.
    pub count: u32,
}

/// One endpoint's place (a key of `ENDPOINTS`, whose values are addresses).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    pub list: u32,
    pub index: u32,
}

/// What became of one end of a direct connection (a record of the ring buffer `EVENTS`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub time: u64,
    /// The netns cookie of the pod whose end it is.
    pub netns: u64,
    /// On the server's side, and when it opens: the client's netns cookie, attested. Else 0.
    pub client: u64,
    /// Bytes that the peer has acknowledged, without SYN and FIN.
    pub sent: u64,
    /// Bytes that came from the peer, without FIN.
    pub received: u64,
    pub local: Address,
    pub remote: Address,
    /// On the client's side: what the app asked for, a Service's address perhaps.
    pub asked: Address,
    /// One of [`event`].
    pub kind: u32,
    /// 1 for the client's end, 0 for the server's.
    pub is_client: u32,
    /// The smoothed round trip time, in microseconds.
    pub srtt: u32,
    /// Segments that were sent again.
    pub retransmits: u32,
    /// The TCP state that it was in before the event (Linux's numbers).
    pub old_state: u32,
}

/// The kinds of [`Event`].
pub mod event {
    pub const OPENED: u32 = 1;
    /// Also of a connection that never opened: its old state is SYN-SENT.
    pub const CLOSED: u32 = 2;
}

/// A plain connection that policies do not allow (a record of the ring buffer `DENIALS`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub time: u64,
    /// The netns cookie of the pod that was connected to.
    pub netns: u64,
    pub client: Address,
    pub server: Address,
}

/// A port that has to do with a pod: a destination that it keeps out of the mesh (a key of `EXCLUDED_PORTS`), or one of
/// its own that differs from the rest (a key of `INBOUND_PORTS`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodPort {
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

impl PodEntry {
    /// Whether the address is the pod's own.
    #[inline(always)]
    pub const fn has(&self, ip: &Ip) -> bool {
        match unmapped(ip) {
            Some(ip4) => ip4 == self.ip4,
            None => {
                let own = &self.ip6;
                ip[3] == own[3] && ip[2] == own[2] && ip[1] == own[1] && ip[0] == own[0]
            }
        }
    }
}

impl ExcludedCidr {
    /// The bits of a key that name the pod; a network's own prefix length is added to them.
    pub const NETNS_BITS: u32 = 64;
    /// The bits of a key that names one address.
    pub const ALL_BITS: u32 = Self::NETNS_BITS + 128;
}

impl Source {
    /// The bits of a key that name the list; a network's own prefix length is added to them.
    pub const LIST_BITS: u32 = 32;
    /// The bits of a key that names one address.
    pub const ALL_BITS: u32 = Self::LIST_BITS + 128;
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
    assert!(size_of::<Manner>() == 24);
    assert!(size_of::<SocketRecord>() == 68);
    assert!(size_of::<HandoffKey>() == 32);
    assert!(size_of::<PodEntry>() == 28);
    assert!(size_of::<PodPort>() == 16);
    assert!(size_of::<ExcludedCidr>() == 24);
    assert!(size_of::<LocalPod>() == 24);
    assert!(size_of::<InboundPort>() == 12);
    assert!(size_of::<Source>() == 20);
    assert!(size_of::<CountKey>() == 16);
    assert!(size_of::<Verdict>() == 32);
    assert!(size_of::<FlowKey>() == 40);
    assert!(size_of::<Flow>() == 64);
    assert!(size_of::<FlowEnd>() == 56);
    assert!(size_of::<Usage>() == 24);
    assert!(size_of::<NodeEntry>() == 16);
    assert!(size_of::<NodeFlow>() == 40);
    assert!(size_of::<Device>() == 32);
    assert!(size_of::<Endpoints>() == 8);
    assert!(size_of::<EndpointKey>() == 8);
    assert!(size_of::<Event>() == 120);
    assert!(size_of::<Denial>() == 56);
};

#[cfg(feature = "user")]
mod user {
    use super::*;

    // SAFETY (all of them): `repr(C)`, made of integers only, without padding; any bytes are a value.
    unsafe impl aya::Pod for SocketRecord {}
    unsafe impl aya::Pod for HandoffKey {}
    unsafe impl aya::Pod for PodEntry {}
    unsafe impl aya::Pod for PodPort {}
    unsafe impl aya::Pod for ExcludedCidr {}
    unsafe impl aya::Pod for Address {}
    unsafe impl aya::Pod for LocalPod {}
    unsafe impl aya::Pod for InboundPort {}
    unsafe impl aya::Pod for Source {}
    unsafe impl aya::Pod for CountKey {}
    unsafe impl aya::Pod for Verdict {}
    unsafe impl aya::Pod for FlowKey {}
    unsafe impl aya::Pod for Flow {}
    unsafe impl aya::Pod for FlowEnd {}
    unsafe impl aya::Pod for Usage {}
    unsafe impl aya::Pod for NodeEntry {}
    unsafe impl aya::Pod for NodeFlow {}
    unsafe impl aya::Pod for Device {}
    unsafe impl aya::Pod for Endpoints {}
    unsafe impl aya::Pod for EndpointKey {}
    unsafe impl aya::Pod for Event {}
    unsafe impl aya::Pod for Denial {}
}
