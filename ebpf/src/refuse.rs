//! Direct connections that nothing attests, at the client's veth. The connect hook has chosen the direct path, and the
//! attestation is missing: its table was full, or the verdict was gone when the SYN was about to leave. Such a connection
//! would leave in plain over the bridge, to whom it may concern; it is refused instead. (Where one of the two pods is not on the
//! direct path any more, the SYN does not leave the socket: `sockops`.)

use crate::{
    local, maps,
    packet::{DROP, ETHERNET_HEADER, Packet, load},
};
use aya_ebpf::{helpers::generated::bpf_redirect, programs::TcContext};
use pillion_ebpf_common::{
    Address, Device, HBONE_PORT, Ip, LocalPod, PodEntry, count,
    flags::{DIRECT, FAIL_OPEN},
    inbound, local_flags,
};

/// Where a TCP header has its sequence number, and then its acknowledgement number.
const SEQUENCE: usize = 4;
const ACKNOWLEDGEMENT: usize = 8;
/// Data offset and flags, 16 bits.
const FLAGS: usize = 12;
const CHECKSUM: usize = 16;

const SYN: u16 = 0x02;
const RST: u16 = 0x04;
const ACK: u16 = 0x10;
/// All that is not the data offset.
const ALL_FLAGS: u16 = 0x0fff;

/// Where an IP header has its addresses.
const ADDRESSES4: usize = ETHERNET_HEADER + 12;
const ADDRESSES6: usize = ETHERNET_HEADER + 8;

/// Whether the packet opens a connection that should be direct, and is none. The pod's own packet, which no entry of `FLOWS`
/// leads.
///
/// Some leave in plain on purpose: the worker's to another worker, what goes to a port that is not of the mesh or to a
/// destination that the pod keeps out of it, and what a pod sends that asks for plain without a worker.
#[inline(always)]
pub fn is_unattested(ctx: &TcContext, packet: &Packet, device: &Device, destination: &Address) -> bool {
    let Some(flags) = load::<u16>(ctx, packet.transport + FLAGS) else { return false };
    if u16::from_be(flags) & (SYN | ACK) != SYN || destination.port == u32::from(HBONE_PORT) {
        return false;
    }
    let Some(server) = local::local_pod(&destination.ip) else { return false };
    let Some(pod) = maps::pod(device.netns) else { return false };
    if pod.flags & FAIL_OPEN != 0 || !are_direct(&pod, &server) {
        return false;
    }
    if local::inbound_port(&server, destination).is_some_and(|port| port.mode == inbound::IGNORE) {
        return false;
    }
    !maps::is_excluded(device.netns, &pod, &destination.ip, destination.port)
}

/// Whether a connection of that pod to that address is looked at here, by [`is_unattested`].
#[inline(always)]
pub fn is_between_direct_pods(pod: &PodEntry, ip: &Ip) -> bool {
    pod.flags & FAIL_OPEN == 0 && local::local_pod(ip).is_some_and(|server| are_direct(pod, &server))
}

#[inline(always)]
fn are_direct(pod: &PodEntry, server: &LocalPod) -> bool {
    pod.flags & DIRECT != 0 && server.flags & local_flags::DIRECT != 0
}

/// Refuses it at once: the SYN goes back as the RST that the server would have sent, so that connect() fails with
/// ECONNREFUSED. A connection that only loses a race with a new policy generation is tried again at once, too.
#[inline(always)]
pub fn refuse(ctx: &TcContext, packet: &Packet, device: &Device, index: u32) -> i32 {
    local::count(device.netns, count::UNATTESTED);
    match turn_round(ctx, packet) {
        // SAFETY: a helper; the device is the one that the packet came by.
        Some(()) => unsafe { bpf_redirect(index, 0) as i32 },
        None => DROP,
    }
}

/// Makes the SYN its own answer. `None` where a part of it cannot be read or written.
#[inline(always)]
fn turn_round(ctx: &TcContext, packet: &Packet) -> Option<()> {
    let tcp = packet.transport;
    let sequence: u32 = ctx.load(tcp + SEQUENCE).ok()?;
    let acknowledgement: u32 = ctx.load(tcp + ACKNOWLEDGEMENT).ok()?;
    let flags: u16 = ctx.load(tcp + FLAGS).ok()?;
    let next = (u32::from_be(sequence).wrapping_add(1)).to_be();
    let answer = (u16::from_be(flags) & !ALL_FLAGS | RST | ACK).to_be();
    // What stays the same, in another order, changes no checksum: addresses and ports.
    replace(ctx, tcp, SEQUENCE, sequence, 0_u32)?;
    replace(ctx, tcp, ACKNOWLEDGEMENT, acknowledgement, next)?;
    replace(ctx, tcp, FLAGS, flags, answer)?;
    swap::<u16>(ctx, tcp)?;
    if packet.is_ipv6 {
        swap::<[u32; 4]>(ctx, ADDRESSES6)?;
    } else {
        swap::<u32>(ctx, ADDRESSES4)?;
    }
    swap::<[u8; 6]>(ctx, 0)
}

/// Replaces a field of the TCP header, and mends the checksum; the helper leaves one alone that a device is still to
/// compute.
#[inline(always)]
fn replace<T: Copy + Into<u64>>(ctx: &TcContext, tcp: usize, at: usize, from: T, to: T) -> Option<()> {
    ctx.l4_csum_replace(tcp + CHECKSUM, from.into(), to.into(), size_of::<T>() as u64).ok()?;
    ctx.store(tcp + at, &to, 0).ok()
}

/// Exchanges two fields that follow each other.
#[inline(always)]
fn swap<T: Copy>(ctx: &TcContext, at: usize) -> Option<()> {
    let [one, other]: [T; 2] = ctx.load(at).ok()?;
    ctx.store(at, &[other, one], 0).ok()
}
