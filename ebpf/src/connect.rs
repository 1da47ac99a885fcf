//! connect(): turns the connections of captured pods to the worker's listener, or leaves them alone for the direct path.

use crate::{
    context::{field, ip6_field, port_from_network, port_to_network, set_user_ip6},
    device,
    local::{self, Way},
    manner,
    maps::{self, Membership},
};
use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::{
        bpf_bind, bpf_get_netns_cookie, bpf_sk_lookup_tcp, bpf_sk_release, bpf_skc_to_mptcp_sock,
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use pillion_ebpf_common::{
    Address, Ip, OUTBOUND_PORT, PodEntry, SocketRecord,
    flags::FAIL_OPEN,
    kind::{AGENT, CLIENT, DIRECT, OPEN, TO_APP, WORKER},
    mapped, unmapped,
};

/// What a program answers: the connection goes on (with the address that the context holds now) …
const PASS: i32 = 1;
/// … or connect() fails with EPERM.
const REFUSE: i32 = 0;

const IPPROTO_TCP: u32 = 6;
/// The kernel runs the hook for the TCP subflow of an MPTCP socket, so this is what no kernel is known to show
/// here; were one to do it, the connection would be captured too.
const IPPROTO_MPTCP: u32 = 262;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

const LOCALHOST4: u32 = u32::from_ne_bytes([127, 0, 0, 1]);
const LOCALHOST6: Ip = [0, 0, 0, 1_u32.to_be()];

/// Multicast groups: to one, the kernel's connect() of TCP fails with ENETUNREACH, whatever routes there are.
const UNREACHABLE4: u32 = u32::from_ne_bytes([224, 0, 0, 1]);
const UNREACHABLE6: Ip = [0xff0e_0000_u32.to_be(), 0, 0, 1_u32.to_be()];

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is the kernel's, and the verifier checks every access to it.
    unsafe { on_connect4(&ctx) }
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: as above.
    unsafe { on_connect6(&ctx) }
}

#[inline(always)]
unsafe fn on_connect4(ctx: &SockAddrContext) -> i32 {
    let address = ctx.sock_addr;
    let destination = || {
        // SAFETY: fields that the verifier lets this program read.
        unsafe { mapped(field!(address, bpf_sock_addr, user_ip4)) }
    };
    let source = |socket: *mut bpf_sock| {
        // SAFETY: as above.
        unsafe {
            match field!(socket, bpf_sock, src_ip4) {
                0 => UNBOUND,
                ip4 => mapped(ip4),
            }
        }
    };
    // SAFETY: as above; the writes are to fields that it lets this program write.
    unsafe {
        match decide(ctx, destination, source, manner::traffic_class4) {
            Decision::Pass => PASS,
            Decision::Refuse => REFUSE,
            Decision::Direct(target) => {
                if let Some(ip4) = unmapped(&target.ip) {
                    (*address).user_ip4 = ip4;
                    (*address).user_port = port_to_network(target.port as u16);
                }
                PASS
            }
            Decision::Unreachable => {
                (*address).user_ip4 = UNREACHABLE4;
                PASS
            }
            Decision::Capture(pod, _) => {
                bind4(ctx, &pod);
                (*address).user_ip4 = LOCALHOST4;
                (*address).user_port = port_to_network(OUTBOUND_PORT);
                PASS
            }
        }
    }
}

#[inline(always)]
unsafe fn on_connect6(ctx: &SockAddrContext) -> i32 {
    let address = ctx.sock_addr;
    let destination = || {
        // SAFETY: fields that the verifier lets this program read.
        unsafe { ip6_field!(address, bpf_sock_addr, user_ip6) }
    };
    let source = |socket: *mut bpf_sock| {
        // SAFETY: as above.
        unsafe { ip6_field!(socket, bpf_sock, src_ip6) }
    };
    // SAFETY: as above; the writes are to fields that it lets this program write.
    unsafe {
        match decide(ctx, destination, source, manner::traffic_class6) {
            Decision::Pass => PASS,
            Decision::Refuse => REFUSE,
            Decision::Direct(target) => {
                turn6(address, &target.ip, target.port as u16);
                PASS
            }
            Decision::Unreachable => {
                let is_mapped = unmapped(&destination()).is_some();
                let unreachable = if is_mapped { mapped(UNREACHABLE4) } else { UNREACHABLE6 };
                turn6(address, &unreachable, OUTBOUND_PORT);
                PASS
            }
            Decision::Capture(pod, destination) => {
                let listener = if unmapped(&destination).is_some() {
                    if pod.ip4 != 0 {
                        let _ = bind6(ctx, &mapped(pod.ip4));
                    }
                    mapped(LOCALHOST4)
                } else {
                    listener6(ctx, &pod)
                };
                turn6(address, &listener, OUTBOUND_PORT);
                PASS
            }
        }
    }
}

/// Writes another destination.
///
/// # Safety
/// `address` is the context's.
#[inline(always)]
unsafe fn turn6(address: *mut bpf_sock_addr, ip: &Ip, port: u16) {
    // SAFETY: fields that the verifier lets this program write.
    unsafe {
        set_user_ip6(address, ip);
        (*address).user_port = port_to_network(port);
    }
}

/// Whether the kernel can tell the MPTCP socket of a subflow: Linux 5.19 with CONFIG_MPTCP. Set by the agent when it
/// loads the program; the verifier never looks at a branch that is off.
#[unsafe(no_mangle)]
static MPTCP: Global<u8> = Global::new(0);

enum Decision {
    Pass,
    Refuse,
    /// The pod has no address of that family. connect() says what it says without a mesh.
    Unreachable,
    /// The socket has its record, and goes to that endpoint itself.
    Direct(Address),
    /// The socket has its record. The pod, and the destination that the app asked for.
    Capture(PodEntry, Ip),
}

/// The source address of a socket that is not bound to one.
const UNBOUND: Ip = [0; 4];

/// Decides on a connection, cheapest question first: every process of the node pays for this.
#[inline(always)]
unsafe fn decide(
    ctx: &SockAddrContext,
    destination: impl Fn() -> Ip,
    source: impl Fn(*mut bpf_sock) -> Ip,
    traffic_class: impl Fn(&SockAddrContext) -> u8,
) -> Decision {
    let address = ctx.sock_addr;
    // SAFETY: fields that the verifier lets this program read.
    let protocol = unsafe { field!(address, bpf_sock_addr, protocol) };
    if protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP {
        return Decision::Pass;
    }
    // SAFETY: the context is the kernel's.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let (pod, refused) = match maps::membership(netns) {
        Membership::None => return Decision::Pass,
        Membership::Captured(pod) => (pod, false),
        Membership::Refused => (PodEntry::default(), true),
    };
    let ip = destination();
    if is_local(&ip) {
        return Decision::Pass;
    }
    // SAFETY: as above.
    let socket = unsafe { (*address).__bindgen_anon_1.sk };
    if socket.is_null() {
        return Decision::Refuse;
    }
    // SAFETY: not null, and the context's.
    if unsafe { maps::record(socket) }.is_some_and(|record| matches!(record.kind, AGENT | TO_APP)) {
        return Decision::Pass;
    }
    // SAFETY: as above.
    let port = port_from_network(unsafe { field!(address, bpf_sock_addr, user_port) });
    // SAFETY: as above. It was held back once, and connects again.
    if unsafe { device::is_held(socket) && !device::leave(ctx, socket) } {
        return Decision::Refuse;
    }
    // What goes to the pod's own address stays in it; its guard lets it in.
    if pod.has(&ip) {
        // SAFETY: as above.
        return unsafe { pass(socket) };
    }
    if refused {
        return Decision::Refuse;
    }
    if maps::is_excluded(netns, &pod, &ip, port) {
        // SAFETY: as above.
        return unsafe { pass(socket) };
    }
    let is_ipv4 = unmapped(&ip).is_some();
    // SAFETY: the context is the kernel's.
    if !unsafe { is_worker_there(ctx, is_ipv4) } {
        // A worker listens for the families that its pod has addresses of, and asks at each audit which these are. Nothing
        // leaves in plain where the pod has got one since: connect() fails until the worker listens for it, too.
        // SAFETY: as above.
        if unsafe { is_worker_there(ctx, !is_ipv4) } {
            return Decision::Unreachable;
        }
        let record = SocketRecord { kind: OPEN, ..SocketRecord::default() };
        // SAFETY: as above. The record lets the SYN out.
        let is_open = pod.flags & FAIL_OPEN != 0 && unsafe { maps::set_record(socket, &record) };
        return if is_open { Decision::Pass } else { Decision::Refuse };
    }
    let source = source(socket);
    // Before the socket is taken off its device.
    // SAFETY: as above.
    let manner = unsafe { manner::of(ctx, socket, source != UNBOUND, traffic_class(ctx)) };
    // SAFETY: as above. A socket that is bound to a device does not reach the listener on `lo`, and could not be held back
    // later. An app without CAP_NET_RAW can bind its socket, and nobody can undo that for it.
    if !unsafe { device::leave(ctx, socket) } {
        return Decision::Refuse;
    }
    log_capture(ctx, &ip, port);
    // What is bound to another address cannot be attested.
    let is_pods = source == UNBOUND || pod.has(&source);
    let asked = Address { ip, port };
    let (record, decision) = match local::way(netns, &pod, &asked) {
        // SAFETY: as above.
        Way::Direct(target) if is_pods && target == asked => return unsafe { pass(socket) },
        Way::Direct(target) if is_pods => {
            (SocketRecord { kind: DIRECT, address: asked, target, manner }, Decision::Direct(target))
        }
        Way::Direct(target) | Way::Worker(target) => {
            (SocketRecord { kind: CLIENT, address: asked, target, manner }, Decision::Capture(pod, ip))
        }
    };
    // SAFETY: as above. Without a record the worker could not tell where to, nor getpeername() what was asked for.
    if !unsafe { maps::set_record(socket, &record) } {
        return Decision::Refuse;
    }
    if MPTCP.load() != 0 {
        // SAFETY: as above.
        unsafe { set_record_of_mptcp(socket, &record) };
    }
    decision
}

/// Leaves the socket alone. It may have been captured once, and connects again now.
///
/// # Safety
/// `socket` is not null, and the context's.
#[inline(always)]
unsafe fn pass(socket: *mut bpf_sock) -> Decision {
    // SAFETY: the caller's promise.
    unsafe { maps::forget_record(socket) };
    Decision::Pass
}

/// Whether the pod's worker listens for that family: the agent is alive. Any process of the pod may listen on that port while the worker
/// does not; the worker's listener is known by its record.
///
/// # Safety
/// The context is the kernel's.
#[inline(always)]
unsafe fn is_worker_there(ctx: &SockAddrContext, is_ipv4: bool) -> bool {
    // Source and destination address, source and destination port: a listener takes any source. No connection comes from address
    // and port 0, so that what is found is a listener and no connection that it has accepted.
    const TUPLE4: [u32; 3] = [0, LOCALHOST4, port_pair(0, OUTBOUND_PORT)];
    // The listener for IPv6 is at every address: nobody else can listen at one of them.
    const TUPLE6: [u32; 9] = {
        let [a, b, c, d] = LOCALHOST6;
        [0, 0, 0, 0, a, b, c, d, port_pair(0, OUTBOUND_PORT)]
    };
    // The namespace that the socket is in.
    const OWN_NETNS: u64 = u64::MAX;
    let mut tuple = TUPLE6;
    let mut length = size_of_val(&TUPLE6) as u32;
    if is_ipv4 {
        tuple[..3].copy_from_slice(&TUPLE4);
        length = size_of_val(&TUPLE4) as u32;
    }
    // SAFETY: a tuple of the family that its length says; what is found is let go of.
    unsafe {
        let found = bpf_sk_lookup_tcp(ctx.as_ptr(), tuple.as_mut_ptr().cast(), length, OWN_NETNS, 0);
        if found.is_null() {
            return false;
        }
        let is_worker = maps::record(found).is_some_and(|record| record.kind == WORKER);
        bpf_sk_release(found.cast());
        is_worker
    }
}

/// Two ports in network byte order, one after the other.
const fn port_pair(source: u16, destination: u16) -> u32 {
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// The hook sees an MPTCP connection's first subflow, getpeername() sees the MPTCP socket itself: it gets the record
/// as well.
///
/// # Safety
/// `socket` is not null, and the context's.
#[inline(always)]
unsafe fn set_record_of_mptcp(socket: *mut bpf_sock, record: &SocketRecord) {
    // SAFETY: the caller's promise; what comes back is null or a socket.
    unsafe {
        let mptcp = bpf_skc_to_mptcp_sock(socket.cast());
        if !mptcp.is_null() {
            maps::set_record(mptcp.cast(), record);
        }
    }
}

/// Destinations that no mesh has a business with: they do not leave the pod, or the link.
#[inline(always)]
pub fn is_local(ip: &Ip) -> bool {
    if let Some(ip4) = unmapped(ip) {
        return ip4.to_ne_bytes()[0] == 127 || ip4 == 0;
    }
    let is_unspecified_or_loopback =
        ip[0] == 0 && ip[1] == 0 && ip[2] == 0 && (ip[3] == 0 || ip[3] == LOCALHOST6[3]);
    // fe80::/10
    let is_link_local = u32::from_be(ip[0]) >> 22 == 0xfe80 >> 6;
    is_unspecified_or_loopback || is_link_local
}

/// Binds an unbound socket to the pod's address, so that getsockname() says what it says without a mesh.
/// A socket that the app has bound keeps its address. The kernel refuses to bind one that has a port: where the app has bound
/// that alone, the connection comes from loopback, and `getsockname` shows the pod's address.
#[inline(always)]
unsafe fn bind4(ctx: &SockAddrContext, pod: &PodEntry) {
    // SAFETY: reads that the verifier allows; `source` is a sockaddr_in of 16 bytes.
    unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if pod.ip4 == 0 || socket.is_null() || field!(socket, bpf_sock, src_ip4) != 0 {
            return;
        }
        let mut source = [family_word(AF_INET), pod.ip4, 0, 0];
        bpf_bind(ctx.sock_addr, source.as_mut_ptr().cast(), 16);
    }
}

/// Binds an unbound socket to the pod's IPv6 address, and says where the worker listens for it: at that very
/// address, or at ::1 where the socket has another (then only loopback is sure to stay in the pod).
///
/// Not always ::1, because to ::1 the kernel sends what has no socket (the ACK of a TIME-WAIT, a RST) by the device
/// that the other address is on (`tcp_v6_send_response`, since ::1 needs a "strict" route), so it never arrives: the
/// FIN of the side that closes last is never acknowledged, and a port used again runs into that connection.
#[inline(always)]
unsafe fn listener6(ctx: &SockAddrContext, pod: &PodEntry) -> Ip {
    // SAFETY: the caller's promise is that of the hook.
    let is_bound = pod.ip6 != [0; 4] && unsafe { bind6(ctx, &pod.ip6) };
    if is_bound { pod.ip6 } else { LOCALHOST6 }
}

/// As [`bind4`], for a socket of the other family. Whether the socket has that address now.
#[inline(always)]
unsafe fn bind6(ctx: &SockAddrContext, ip: &Ip) -> bool {
    // SAFETY: reads that the verifier allows; `source` is a sockaddr_in6 of 28 bytes.
    unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if socket.is_null() {
            return false;
        }
        let own = ip6_field!(socket, bpf_sock, src_ip6);
        if own != [0; 4] {
            return own == *ip;
        }
        let mut source = [family_word(AF_INET6), 0, ip[0], ip[1], ip[2], ip[3], 0];
        bpf_bind(ctx.sock_addr, source.as_mut_ptr().cast(), 28) == 0
    }
}

/// The first word of a socket address: the family, and port 0 (any).
#[inline(always)]
const fn family_word(family: u16) -> u32 {
    let [a, b] = family.to_ne_bytes();
    u32::from_ne_bytes([a, b, 0, 0])
}

#[cfg(feature = "log")]
#[inline(always)]
fn log_capture(ctx: &SockAddrContext, ip: &Ip, port: u32) {
    match unmapped(ip) {
        Some(ip4) => aya_log_ebpf::info!(ctx, "captured connect to {:i}:{}", u32::from_be(ip4), port),
        None => {
            let [a, b, c, d] = ip.map(u32::to_ne_bytes);
            let octets = [
                a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2],
                d[3],
            ];
            aya_log_ebpf::info!(ctx, "captured connect to [{:i}]:{}", octets, port);
        }
    }
}

#[cfg(not(feature = "log"))]
#[inline(always)]
fn log_capture(_ctx: &SockAddrContext, _ip: &Ip, _port: u32) {}
