//! Carries a connection's record from the connecting socket to the accepted one.
//!
//! The connecting side writes it before its SYN leaves, the accepting side takes it before accept() can return.
//! Hence it is there also for a connection that is reset at once.

use crate::{
    context::{field, ip6_field},
    maps,
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, bpf_sock, bpf_sock_ops,
    },
    helpers::generated::bpf_get_netns_cookie,
    macros,
    programs::SockOpsContext,
};
use pillion_ebpf_common::{
    HandoffKey, Ip, OUTBOUND_PORT, SocketRecord,
    kind::{ACCEPTED, AGENT, CLIENT, SERVER},
    mapped,
};

/// The kernel ignores what these callbacks answer.
const DONE: u32 = 1;
const AF_INET: u32 = 2;

/// Not named `sockops`: that is its section, and the two would be one symbol.
#[macros::sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    // SAFETY: the context is the kernel's, and the verifier checks every access to it.
    unsafe {
        match field!(ctx.ops, bpf_sock_ops, op) {
            BPF_SOCK_OPS_TCP_CONNECT_CB => on_connect(&ctx),
            BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => on_accept(&ctx),
            BPF_SOCK_OPS_STATE_CB => on_state(&ctx),
            _ => {}
        }
    }
    DONE
}

/// A SYN is about to leave. Sockets of the rest of the node have no record and go at once.
#[inline(always)]
unsafe fn on_connect(ctx: &SockOpsContext) {
    // SAFETY: see `sock_ops`.
    unsafe {
        let Some(socket) = socket(ctx) else { return };
        let Some(record) = maps::record(socket) else { return };
        let ends = Ends::of(ctx);
        let is_handed_off = match record.kind {
            // Any other port: the record is that of an earlier connection of the same socket.
            CLIENT => ends.remote_port == u32::from(OUTBOUND_PORT),
            AGENT => record.address.port != 0,
            _ => false,
        };
        if is_handed_off {
            maps::hand_off(&ends.key_as_client(ctx), &record);
            // So that a connection that is never accepted leaves no entry behind.
            let _ = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
        }
    }
}

/// A connection has been made, and its socket is not in accept()'s queue yet.
#[inline(always)]
unsafe fn on_accept(ctx: &SockOpsContext) {
    // SAFETY: see `sock_ops`.
    unsafe {
        let key = Ends::of(ctx).key_as_server(ctx);
        let Some(record) = maps::handed_off(&key) else { return };
        if let Some(socket) = socket(ctx) {
            let kind = if record.kind == AGENT { SERVER } else { ACCEPTED };
            // Without memory for it the worker has no original destination and refuses.
            maps::set_record(socket, &SocketRecord { kind, ..record });
        }
        maps::forget_handoff(&key);
    }
}

/// A connecting socket that was handed off changes its state.
#[inline(always)]
unsafe fn on_state(ctx: &SockOpsContext) {
    // SAFETY: see `sock_ops`; a state callback's second argument is the new state.
    unsafe {
        let new_state = crate::context::load::<
            { core::mem::offset_of!(bpf_sock_ops, __bindgen_anon_1) + size_of::<u32>() },
        >(ctx.as_ptr());
        if new_state == BPF_TCP_CLOSE {
            maps::forget_handoff(&Ends::of(ctx).key_as_client(ctx));
        }
    }
}

#[inline(always)]
unsafe fn socket(ctx: &SockOpsContext) -> Option<*mut bpf_sock> {
    // SAFETY: see `sock_ops`.
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    (!socket.is_null()).then_some(socket)
}

/// The two ends of a connection, as its socket sees them. Ports are in host byte order.
struct Ends {
    local_ip: Ip,
    local_port: u32,
    remote_ip: Ip,
    remote_port: u32,
}

impl Ends {
    #[inline(always)]
    unsafe fn of(ctx: &SockOpsContext) -> Self {
        let ops = ctx.ops;
        // SAFETY: see `sock_ops`.
        unsafe {
            let (local_ip, remote_ip) = if field!(ops, bpf_sock_ops, family) == AF_INET {
                (mapped(field!(ops, bpf_sock_ops, local_ip4)), mapped(field!(ops, bpf_sock_ops, remote_ip4)))
            } else {
                (ip6_field!(ops, bpf_sock_ops, local_ip6), ip6_field!(ops, bpf_sock_ops, remote_ip6))
            };
            Self {
                local_ip,
                // In host byte order, unlike the remote one, which the kernel keeps in the upper half of a
                // big-endian word.
                local_port: field!(ops, bpf_sock_ops, local_port),
                remote_ip,
                remote_port: u32::from_be(field!(ops, bpf_sock_ops, remote_port)),
            }
        }
    }

    /// The key of the connection, on the connecting side.
    #[inline(always)]
    unsafe fn key_as_client(self, ctx: &SockOpsContext) -> HandoffKey {
        HandoffKey {
            // SAFETY: the context is the kernel's.
            netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
            source_ip: self.local_ip,
            source_port: self.local_port,
            destination_port: self.remote_port,
        }
    }

    /// The same key, on the accepting side.
    #[inline(always)]
    unsafe fn key_as_server(self, ctx: &SockOpsContext) -> HandoffKey {
        HandoffKey {
            // SAFETY: the context is the kernel's.
            netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
            source_ip: self.remote_ip,
            source_port: self.remote_port,
            destination_port: self.local_port,
        }
    }
}
