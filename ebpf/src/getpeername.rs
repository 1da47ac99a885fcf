//! getpeername() (and accept(), which shows the same): either app sees the peer that it would see without a mesh.

use crate::{
    context::{field, ip6_field, is_loopback, port_from_network, port_to_network, set_user_ip6},
    maps,
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::bpf_get_netns_cookie,
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use pillion_ebpf_common::{
    Address, HandoffKey, Ip, OUTBOUND_PORT,
    kind::{CLIENT, DIRECT, SERVER, TO_APP},
    mapped, unmapped,
};

/// The only answer that the kernel takes here.
const PASS: i32 = 1;

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is the kernel's, and the verifier checks every access to it.
    unsafe {
        let ip = || mapped(field!(ctx.sock_addr, bpf_sock_addr, user_ip4));
        let local = |socket: *mut bpf_sock| mapped(field!(socket, bpf_sock, src_ip4));
        if let Some(peer) = peer(&ctx, ip, local)
            && let Some(ip4) = unmapped(&peer.ip)
        {
            (*ctx.sock_addr).user_ip4 = ip4;
            (*ctx.sock_addr).user_port = port_to_network(peer.port as u16);
        }
    }
    PASS
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    // SAFETY: as above.
    unsafe {
        let ip = || ip6_field!(ctx.sock_addr, bpf_sock_addr, user_ip6);
        let local = |socket: *mut bpf_sock| ip6_field!(socket, bpf_sock, src_ip6);
        if let Some(peer) = peer(&ctx, ip, local) {
            set_user_ip6(ctx.sock_addr, &peer.ip);
            (*ctx.sock_addr).user_port = port_to_network(peer.port as u16);
        }
    }
    PASS
}

/// The peer to show, when it is not the true one, which is at `ip`. `local` is the socket's own address.
#[inline(always)]
unsafe fn peer(
    ctx: &SockAddrContext,
    ip: impl Fn() -> Ip,
    local: impl Fn(*mut bpf_sock) -> Ip,
) -> Option<Address> {
    // SAFETY: fields that the verifier lets these programs read.
    unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if socket.is_null() {
            return None;
        }
        let port = port_from_network(field!(ctx.sock_addr, bpf_sock_addr, user_port));
        let Some(record) = maps::record(socket) else {
            return handed_off(ctx, socket, Address { ip: ip(), port }, local(socket));
        };
        match record.kind {
            SERVER => Some(record.address),
            // A socket that was captured once may have been connected again to what is not captured: its record
            // is stale, and the true peer is the one to show.
            CLIENT if port == u32::from(OUTBOUND_PORT) => Some(record.address),
            DIRECT if record.target == (Address { ip: ip(), port }) => Some(record.address),
            _ => None,
        }
    }
}

/// The peer that the worker presents to an app whose socket the kernel had no memory for a record for: then the entry of the
/// connection is still there.
///
/// # Safety
/// `socket` is not null, and the context's.
#[inline(always)]
unsafe fn handed_off(
    ctx: &SockAddrContext,
    socket: *mut bpf_sock,
    peer: Address,
    local: Ip,
) -> Option<Address> {
    // A worker connects to its app from loopback, or from the very address.
    if is_loopback(&local) || !is_loopback(&peer.ip) && peer.ip != local {
        return None;
    }
    // SAFETY: the caller's promise; the port is in host byte order.
    let (netns, destination_port) =
        unsafe { (bpf_get_netns_cookie(ctx.as_ptr()), field!(socket, bpf_sock, src_port)) };
    let key = HandoffKey { netns, source_ip: peer.ip, source_port: peer.port, destination_port };
    maps::handed_off(&key).filter(|record| record.kind == TO_APP).map(|record| record.address)
}
