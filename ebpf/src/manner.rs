//! What an app has set on the socket that it connects. The worker opens a plain connection on the app's behalf in the same manner.

use crate::context::field;
use aya_ebpf::{
    EbpfContext as _, bindings::bpf_sock, helpers::generated::bpf_getsockopt, programs::SockAddrContext,
};
use pillion_ebpf_common::Manner;

const SOL_SOCKET: i32 = 1;
const SO_KEEPALIVE: i32 = 9;

const IPPROTO_IP: i32 = 0;
const IP_TOS: i32 = 1;

const IPPROTO_IPV6: i32 = 41;
const IPV6_TCLASS: i32 = 67;

const IPPROTO_TCP: i32 = 6;
const TCP_KEEPIDLE: i32 = 4;
const TCP_KEEPINTVL: i32 = 5;
const TCP_KEEPCNT: i32 = 6;
const TCP_USER_TIMEOUT: i32 = 18;

/// How a socket was set up. Before Linux 6.0 the kernel does not tell programs about keep-alive and user timeout, which are 0 then.
///
/// # Safety
/// `socket` is not null, and the context's, which is the kernel's.
#[inline(always)]
pub unsafe fn of(
    ctx: &SockAddrContext,
    socket: *mut bpf_sock,
    has_address: bool,
    traffic_class: u8,
) -> Manner {
    let is_kept_alive = option(ctx, SOL_SOCKET, SO_KEEPALIVE) != 0;
    let keepalive = |name: i32| if is_kept_alive { option(ctx, IPPROTO_TCP, name) } else { 0 };
    // SAFETY: fields that the verifier lets these programs read.
    let (mark, device, port) = unsafe {
        (
            field!(socket, bpf_sock, mark),
            field!(socket, bpf_sock, bound_dev_if),
            field!(socket, bpf_sock, src_port),
        )
    };
    Manner {
        mark,
        device,
        user_timeout: option(ctx, IPPROTO_TCP, TCP_USER_TIMEOUT),
        keepalive_idle: keepalive(TCP_KEEPIDLE) as u16,
        keepalive_interval: keepalive(TCP_KEEPINTVL) as u16,
        port: port as u16,
        keepalive_probes: keepalive(TCP_KEEPCNT) as u8,
        traffic_class,
        has_address: u32::from(has_address),
    }
}

/// Of a socket for IPv4.
#[inline(always)]
pub fn traffic_class4(ctx: &SockAddrContext) -> u8 {
    option(ctx, IPPROTO_IP, IP_TOS) as u8
}

/// Of a socket for IPv6. The kernel does not tell programs which class such a socket gives to IPv4 packets.
#[inline(always)]
pub fn traffic_class6(ctx: &SockAddrContext) -> u8 {
    option(ctx, IPPROTO_IPV6, IPV6_TCLASS) as u8
}

/// The value of an option; 0 where the kernel does not tell it.
#[inline(always)]
fn option(ctx: &SockAddrContext, level: i32, name: i32) -> u32 {
    let mut value = 0_u32;
    // SAFETY: the context is the kernel's; a value of the size told.
    let error = unsafe {
        bpf_getsockopt(ctx.as_ptr(), level, name, (&raw mut value).cast(), size_of_val(&value) as i32)
    };
    if error == 0 { value } else { 0 }
}
