//! What happens to a connection between connect() and its end.
//!
//! It carries the record of a captured connection from the connecting socket to the accepted one: the connecting side
//! writes it before its SYN leaves, the accepting side takes it before accept() can return. Hence it is there also for
//! a connection that is reset at once. And it attests connections on the direct path, in the same moment, and tells
//! the agent what becomes of them.

use crate::{
    connect::is_local,
    context::{Ends, field, is_loopback, wide_field},
    device,
    flows::{self, Attestation, End},
    local,
    maps::{self, Membership},
    node, refuse,
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
        BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, BPF_TCP_CLOSE_WAIT,
        BPF_TCP_CLOSING, BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK, bpf_sock, bpf_sock_ops,
    },
    helpers::generated::{bpf_get_netns_cookie, bpf_getsockopt, bpf_setsockopt},
    macros,
    programs::SockOpsContext,
};
use pillion_ebpf_common::{
    Address, Event, OUTBOUND_PORT, SocketRecord, count, event,
    flags::DIRECT as DIRECT_PATH,
    kind::{ACCEPTED, AGENT, CLIENT, DIRECT, OPEN, SERVER, TO_APP},
    local_flags,
};

/// The kernel ignores what these callbacks answer.
const DONE: u32 = 1;

const IPPROTO_TCP: i32 = 6;
const TCP_CONGESTION: i32 = 13;
/// TCP_CA_NAME_MAX
const CONGESTION_NAME: usize = 16;

/// Not named `sockops`: that is its section, and the two would be one symbol.
#[macros::sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    // SAFETY: the context is the kernel's, and the verifier checks every access to it.
    unsafe {
        match field!(ctx.ops, bpf_sock_ops, op) {
            BPF_SOCK_OPS_TCP_CONNECT_CB => on_connect(&ctx),
            BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => on_connected(&ctx),
            BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => on_accept(&ctx),
            BPF_SOCK_OPS_STATE_CB => on_state(&ctx),
            _ => {}
        }
    }
    DONE
}

/// A SYN is about to leave.
#[inline(always)]
unsafe fn on_connect(ctx: &SockOpsContext) {
    // SAFETY: see `sock_ops`.
    unsafe {
        let Some(socket) = socket(ctx) else { return };
        let record = maps::record(socket);
        let netns = bpf_get_netns_cookie(ctx.as_ptr());
        let ends = Ends::of(ctx);
        let is_handed_off = match record {
            // Any other port: the record is that of an earlier connection of the same socket.
            Some(SocketRecord { kind: CLIENT, .. }) => ends.remote_port == u32::from(OUTBOUND_PORT),
            Some(SocketRecord { kind: TO_APP, .. }) => true,
            _ => false,
        };
        let is_noted = if is_handed_off && let Some(record) = record {
            maps::hand_off(&ends.key_as_client(netns), record)
        } else {
            let attestation = match record {
                Some(SocketRecord { kind: CLIENT, .. }) => None,
                // From the pod's own address to itself. The agent's connection to an app from loopback is a `TO_APP`, or none.
                Some(SocketRecord { kind: AGENT, .. }) if ends.local_ip != ends.remote_ip => None,
                _ => attestation(&ends, netns),
            };
            match attestation {
                Some(attestation) => {
                    if attestation.devices != WITHIN_POD {
                        choose_congestion(ctx);
                    }
                    flows::attest(&ends, netns, &attestation)
                }
                None if node::is_node(netns) => node::attest(&ends),
                None => {
                    if !may_leave(record.map(|record| record.kind), &ends, netns) {
                        device::hold(ctx);
                        local::count(netns, count::UNATTESTED);
                    }
                    false
                }
            }
        };
        if is_noted {
            // So that a connection leaves no entry behind, one that is never accepted neither.
            ask_for_states(ctx);
        }
    }
}

/// Has the kernel call again when the socket's state changes. What another project's program has asked for stays.
#[inline(always)]
unsafe fn ask_for_states(ctx: &SockOpsContext) {
    // SAFETY: see `sock_ops`.
    let flags = unsafe { field!(ctx.ops, bpf_sock_ops, bpf_sock_ops_cb_flags) };
    let _ = ctx.set_cb_flags((flags | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
}

/// Whether a SYN may leave its pod that nothing attests. The connect hook has let it go, a while ago perhaps: with
/// TCP_FASTOPEN_CONNECT it leaves with the first bytes. What was to be direct then, or was asked of nobody because the pod was not
/// captured, may not leave in plain now.
#[inline(always)]
fn may_leave(kind: Option<u32>, ends: &Ends, netns: u64) -> bool {
    if kind == Some(AGENT) {
        return true;
    }
    let pod = match maps::membership(netns) {
        Membership::None => return true,
        Membership::Captured(pod) => Some(pod),
        Membership::Refused => None,
    };
    if ends.is_own() || is_local(&ends.remote_ip) {
        return true;
    }
    let Some(pod) = pod else { return false };
    pod.has(&ends.remote_ip)
        || kind == Some(OPEN)
        || maps::is_excluded(netns, &pod, &ends.remote_ip, ends.remote_port)
        || refuse::is_between_direct_pods(&pod, &ends.remote_ip)
        || maps::is_new(netns)
}

/// The devices of a connection that stays within its pod.
const WITHIN_POD: [u32; 2] = [0, 0];

/// What the kernel attests of a connection: it stays within its pod, or it is on the direct path, under a verdict. From an
/// address of the client's own: its root can give its sockets any other, and could take that pod's attestation away.
#[inline(always)]
fn attestation(ends: &Ends, netns: u64) -> Option<Attestation> {
    if ends.is_own() {
        if is_loopback(&ends.remote_ip) {
            return None;
        }
        // By the table that the guard asks, too: it knows the pod before its first connection is captured.
        let pod = local::local_pod(&ends.remote_ip)?;
        let is_pods = pod.netns == netns && pod.flags & local_flags::LEAVING == 0;
        return is_pods.then_some(Attestation { server: netns, devices: WITHIN_POD });
    }
    let pod = maps::pod(netns)?;
    if pod.flags & DIRECT_PATH == 0 || !pod.has(&ends.local_ip) {
        return None;
    }
    let server = local::local_pod(&ends.remote_ip)?;
    let is_direct = server.flags & local_flags::DIRECT != 0
        && local::has_verdict(netns, server.netns, ends.remote_port)
        && !maps::is_excluded(netns, &pod, &ends.remote_ip, ends.remote_port);
    let devices = [pod.device, server.device];
    is_direct.then_some(Attestation { server: server.netns, devices })
}

/// The client's end is established.
#[inline(always)]
unsafe fn on_connected(ctx: &SockOpsContext) {
    // SAFETY: see `sock_ops`.
    unsafe {
        // What was handed over or attested has the callback, and what another project's program wants to hear of.
        if field!(ctx.ops, bpf_sock_ops, bpf_sock_ops_cb_flags) & BPF_SOCK_OPS_STATE_CB_FLAG == 0 {
            return;
        }
        let ends = Ends::of(ctx);
        let netns = bpf_get_netns_cookie(ctx.as_ptr());
        if ends.is_own() || flows::client_of(ends.local(), ends.remote()) != Some(netns) {
            return;
        }
        flows::tell(Event {
            netns,
            local: ends.local(),
            remote: ends.remote(),
            asked: asked(ctx, &ends),
            kind: event::OPENED,
            is_client: 1,
            ..Event::default()
        });
    }
}

/// What the client's app asked for: another address than the connection's where that is a Service's endpoint.
#[inline(always)]
unsafe fn asked(ctx: &SockOpsContext, ends: &Ends) -> Address {
    // SAFETY: see `sock_ops`.
    let record = unsafe { socket(ctx).and_then(|socket| maps::record(socket)) };
    match record {
        Some(record) if record.kind == DIRECT && record.target == ends.remote() => record.address,
        _ => ends.remote(),
    }
}

/// A connection has been made, and its socket is not in accept()'s queue yet.
#[inline(always)]
unsafe fn on_accept(ctx: &SockOpsContext) {
    // SAFETY: see `sock_ops`.
    unsafe {
        let Some(socket) = socket(ctx) else { return };
        let ends = Ends::of(ctx);
        let netns = bpf_get_netns_cookie(ctx.as_ptr());
        // What is handed over stays within its pod; what is direct does not.
        if !ends.is_own() {
            if let Some(client) = flows::accept(&ends, netns) {
                on_direct_accept(ctx, &ends, netns, client);
            }
            return;
        }
        let key = ends.key_as_server(netns);
        let Some(record) = maps::handed_off(&key) else { return };
        let kind = if record.kind == TO_APP { SERVER } else { ACCEPTED };
        // Without memory for it the entry stays until the client's end closes: getpeername() looks there, too. A worker
        // finds no original destination then, and refuses.
        if maps::set_record_as(socket, record, kind) {
            maps::forget_handoff(&key);
        }
    }
}

#[inline(always)]
unsafe fn on_direct_accept(ctx: &SockOpsContext, ends: &Ends, netns: u64, client: u64) {
    // SAFETY: see `sock_ops`.
    unsafe {
        choose_congestion(ctx);
        ask_for_states(ctx);
    }
    flows::tell(Event {
        netns,
        client,
        local: ends.local(),
        remote: ends.remote(),
        kind: event::OPENED,
        ..Event::default()
    });
}

/// A socket that something is noted of changes its state.
#[inline(always)]
unsafe fn on_state(ctx: &SockOpsContext) {
    // SAFETY: see `sock_ops`; a state callback's arguments are the old and the new state.
    unsafe {
        let old_state = crate::context::load::<ARGUMENTS>(ctx.as_ptr());
        let new_state = crate::context::load::<{ ARGUMENTS + size_of::<u32>() }>(ctx.as_ptr());
        if new_state != BPF_TCP_FIN_WAIT2 && new_state != BPF_TCP_CLOSE {
            return;
        }
        let Some(socket) = socket(ctx) else { return };
        let ends = Ends::of(ctx);
        let netns = bpf_get_netns_cookie(ctx.as_ptr());
        match maps::record(socket) {
            Some(SocketRecord { kind: CLIENT | TO_APP, .. }) => {
                if new_state == BPF_TCP_CLOSE {
                    maps::forget_handoff(&ends.key_as_client(netns));
                }
            }
            _ if node::is_node(netns) => {
                if new_state == BPF_TCP_CLOSE {
                    node::forget(&ends);
                }
            }
            _ if new_state == BPF_TCP_FIN_WAIT2 => {
                let received = wide_field!(ctx.ops, bpf_sock_ops, bytes_received) as u32;
                flows::note_received(&ends, netns, received);
            }
            _ => on_direct_close(ctx, &ends, netns, old_state),
        }
    }
}

const ARGUMENTS: usize = core::mem::offset_of!(bpf_sock_ops, __bindgen_anon_1);

#[inline(always)]
unsafe fn on_direct_close(ctx: &SockOpsContext, ends: &Ends, netns: u64, old_state: u32) {
    let Some(end) = flows::close(ends, netns) else { return };
    if ends.is_own() {
        return;
    }
    // SAFETY: see `sock_ops`.
    unsafe {
        let Bytes { sent, received } = Bytes::of(ctx, &end, old_state);
        flows::tell(Event {
            netns,
            sent,
            received,
            local: ends.local(),
            remote: ends.remote(),
            asked: if end.is_client { asked(ctx, ends) } else { ends.local() },
            kind: event::CLOSED,
            is_client: u32::from(end.is_client),
            // In eighths of a microsecond.
            srtt: field!(ctx.ops, bpf_sock_ops, srtt_us) >> 3,
            retransmits: field!(ctx.ops, bpf_sock_ops, total_retrans),
            old_state,
            ..Event::default()
        });
    }
}

/// What a connection has carried.
struct Bytes {
    sent: u64,
    received: u64,
}

impl Bytes {
    /// The kernel counts SYN and FIN as bytes, too.
    #[inline(always)]
    unsafe fn of(ctx: &SockOpsContext, end: &End, old_state: u32) -> Self {
        // SAFETY: see `sock_ops`.
        let (acked, received) = unsafe {
            let acked = wide_field!(ctx.ops, bpf_sock_ops, bytes_acked);
            (acked, wide_field!(ctx.ops, bpf_sock_ops, bytes_received))
        };
        let is_fin_acked = matches!(old_state, BPF_TCP_FIN_WAIT2 | BPF_TCP_LAST_ACK | BPF_TCP_CLOSING);
        let is_fin_received = match old_state {
            BPF_TCP_CLOSE_WAIT | BPF_TCP_LAST_ACK | BPF_TCP_CLOSING => true,
            // An orphan's end comes without the peer's FIN, and without anything after it was closed.
            BPF_TCP_FIN_WAIT2 => received as u32 != end.received,
            _ => false,
        };
        let is_syn_acked = u64::from(end.is_client);
        Self {
            sent: acked.saturating_sub(is_syn_acked + u64::from(is_fin_acked)),
            received: received.saturating_sub(u64::from(is_fin_received)),
        }
    }
}

/// bbr paces by timers, which costs more than half of the throughput where nothing is ever lost: within a node, cubic
/// takes its place. Another choice, the node's or the app's, stays.
#[inline(always)]
unsafe fn choose_congestion(ctx: &SockOpsContext) {
    let mut name = [0_u8; CONGESTION_NAME];
    let mut cubic = *b"cubic\0";
    // SAFETY: the context, and buffers of the sizes told.
    unsafe {
        let (socket, name_at) = (ctx.as_ptr(), name.as_mut_ptr().cast());
        let found = bpf_getsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, name_at, CONGESTION_NAME as i32);
        if found == 0 && name[0] == b'b' && name[1] == b'b' && name[2] == b'r' {
            // A kernel without cubic leaves it as it is.
            bpf_setsockopt(
                socket,
                IPPROTO_TCP,
                TCP_CONGESTION,
                cubic.as_mut_ptr().cast(),
                cubic.len() as i32,
            );
        }
    }
}

#[inline(always)]
unsafe fn socket(ctx: &SockOpsContext) -> Option<*mut bpf_sock> {
    // SAFETY: see `sock_ops`.
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    (!socket.is_null()).then_some(socket)
}
