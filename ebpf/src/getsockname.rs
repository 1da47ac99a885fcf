//! getsockname(): an app sees its pod's address as its own also where its connection to the worker comes from loopback. That is
//! so where the app has bound a port alone (`bind4` and `listener6` of the connect hook).

use crate::{
    context::{field, ip6_field, is_loopback, port_from_network, set_user_ip6},
    maps,
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::bpf_get_netns_cookie,
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use pillion_ebpf_common::{Ip, OUTBOUND_PORT, PodEntry, kind::CLIENT, mapped, unmapped};

/// The only answer that the kernel takes here.
const PASS: i32 = 1;

#[cgroup_sock_addr(getsockname4)]
pub fn getsockname4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is the kernel's, and the verifier checks every access to it.
    unsafe {
        let ip = mapped(field!(ctx.sock_addr, bpf_sock_addr, user_ip4));
        if let Some(pod) = captured_from_loopback(&ctx, &ip)
            && pod.ip4 != 0
        {
            (*ctx.sock_addr).user_ip4 = pod.ip4;
        }
    }
    PASS
}

#[cgroup_sock_addr(getsockname6)]
pub fn getsockname6(ctx: SockAddrContext) -> i32 {
    // SAFETY: as above.
    unsafe {
        let ip = ip6_field!(ctx.sock_addr, bpf_sock_addr, user_ip6);
        let Some(pod) = captured_from_loopback(&ctx, &ip) else { return PASS };
        let is_mapped = unmapped(&ip).is_some();
        if is_mapped && pod.ip4 == 0 || !is_mapped && pod.ip6 == [0; 4] {
            return PASS;
        }
        let own = if is_mapped { mapped(pod.ip4) } else { pod.ip6 };
        set_user_ip6(ctx.sock_addr, &own);
    }
    PASS
}

/// The pod whose socket this is, where the socket is connected to the worker from loopback. `ip` is the socket's own address.
///
/// # Safety
/// The context is the kernel's.
#[inline(always)]
unsafe fn captured_from_loopback(ctx: &SockAddrContext, ip: &Ip) -> Option<PodEntry> {
    // Nearly every socket of the node ends here.
    if !is_loopback(ip) {
        return None;
    }
    // SAFETY: fields that the verifier lets these programs read.
    unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if socket.is_null() || maps::record(socket)?.kind != CLIENT {
            return None;
        }
        // A socket that was captured once may have been connected again to what is not captured: its record is stale then.
        if port_from_network(field!(socket, bpf_sock, dst_port)) != u32::from(OUTBOUND_PORT) {
            return None;
        }
        maps::pod(bpf_get_netns_cookie(ctx.as_ptr()))
    }
}
