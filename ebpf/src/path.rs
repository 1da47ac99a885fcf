//! tc, on both sides of the node's end of a pod's veth: packets of direct connections take one way only, from the one
//! pod straight into the other, whatever neighbours say about MAC addresses.

use crate::{
    context::{field, is_loopback},
    flows, local,
    packet::{DROP, Packet, Read},
    refuse,
};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_redirect_peer, bpf_skb_change_type},
    macros::classifier,
    programs::TcContext,
};
use pillion_ebpf_common::{Device, Ip, count};

/// Whatever comes next decides: another program, or the node's network. (TCX_NEXT, TC_ACT_UNSPEC.)
const NEXT: i32 = -1;

const PACKET_HOST: u32 = 0;

/// What leaves a pod (ingress of the node's end).
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    // SAFETY: a field that the verifier lets this program read.
    let index = unsafe { field!(ctx.skb.skb, __sk_buff, ifindex) };
    let packet = Packet::read(&ctx);
    let ends = match &packet {
        Read::Ip(packet) => packet.ends(&ctx),
        Read::Other | Read::Hidden => None,
    };
    if let Some((source, destination)) = ends
        && let Some(to) = flows::way_of(source, destination, index)
    {
        // SAFETY: helpers, with the context.
        return unsafe {
            // To the bridge's neighbour it was addressed; the pod's stack drops what is not for its host.
            if field!(ctx.skb.skb, __sk_buff, pkt_type) != PACKET_HOST {
                bpf_skb_change_type(ctx.skb.skb, PACKET_HOST);
            }
            bpf_redirect_peer(to, 0) as i32
        };
    }
    let Some(device) = local::device(index) else { return NEXT };
    match packet {
        Read::Ip(packet) if is_own(&packet.source, &device) && packet.hides_tcp(&ctx) => {
            // It would be judged by none of the questions that a connection's first packet is asked.
            local::count(device.netns, count::UNATTESTED);
            DROP
        }
        Read::Ip(packet) if is_own(&packet.source, &device) => match ends {
            Some((_, destination)) if refuse::is_unattested(&ctx, &packet, &device, &destination) => {
                refuse::refuse(&ctx, &packet, &device, index)
            }
            _ => NEXT,
        },
        Read::Other => NEXT,
        Read::Ip(_) | Read::Hidden => foreign(&device),
    }
}

/// What goes to a pod (egress of the node's end). Redirected packets do not come by here, so whatever belongs to a
/// direct connection and does is forged.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    // SAFETY: a field that the verifier lets this program read.
    let index = unsafe { field!(ctx.skb.skb, __sk_buff, ifindex) };
    let Some(device) = local::device(index) else { return NEXT };
    let packet = match Packet::read(&ctx) {
        Read::Ip(packet) => packet,
        Read::Other => return NEXT,
        Read::Hidden => return forged(&device),
    };
    if is_loopback(&packet.source) || bears_receivers_address(&packet, &device) {
        return forged(&device);
    }
    let is_of_local_pod = local::local_pod(&packet.source).is_some_and(|pod| pod.device != 0);
    if !is_of_local_pod {
        return NEXT;
    }
    if packet.hides_tcp(&ctx) {
        return forged(&device);
    }
    match packet.ends(&ctx) {
        Some((source, destination)) if flows::is_member(source, destination) => forged(&device),
        _ => NEXT,
    }
}

/// Whether a packet that comes to a pod bears the pod's own address as its source. What a pod sends to itself stays in it, so
/// that somebody else has written the address: IPv6 lets such packets in, and they would be taken for those of the worker and
/// its apps. Neighbour discovery says so on purpose where two have one address.
#[inline(always)]
fn bears_receivers_address(packet: &Packet, device: &Device) -> bool {
    match pillion_ebpf_common::unmapped(&packet.source) {
        Some(ip4) => ip4 != 0 && ip4 == device.ip4,
        None => packet.source != [0; 4] && packet.source == device.ip6 && !packet.is_icmp6(),
    }
}

fn foreign(device: &Device) -> i32 {
    local::count(device.netns, count::FOREIGN_SOURCE);
    DROP
}

fn forged(device: &Device) -> i32 {
    local::count(device.netns, count::FORGED);
    DROP
}

/// A pod's own: its addresses in the mesh, link-local ones, and none yet (DHCP, duplicate address detection).
#[inline(always)]
fn is_own(source: &Ip, device: &Device) -> bool {
    if let Some(ip4) = pillion_ebpf_common::unmapped(source) {
        return ip4 == device.ip4 || ip4 == 0;
    }
    let is_link_local = u32::from_be(source[0]) >> 22 == 0xfe80 >> 6;
    *source == device.ip6 || is_link_local || *source == [0; 4]
}
