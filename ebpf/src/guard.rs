//! sk_lookup, in each captured pod's namespace: what plaintext a pod takes. It runs for what belongs to no open
//! connection: SYNs, and strays.

use crate::{
    context::{field, ip6_field, port_from_network},
    denials, flows, local, maps,
};
use aya_ebpf::{bindings::bpf_sk_lookup, macros::sk_lookup, programs::SkLookupContext};
use pillion_ebpf_common::{
    Address, HBONE_PORT, InboundPort, Ip, LocalPod, OUTBOUND_PORT, count, inbound, list, local_flags, mapped,
    unmapped,
};

const PASS: u32 = 1;
/// The kernel answers a SYN with RST, at once.
const DROP: u32 = 0;

const IPPROTO_TCP: u32 = 6;
const AF_INET: u32 = 2;

/// For pods that take plaintext on addresses which the mesh does not know: link-local ones, further interfaces.
///
/// Two programs, because one of this type cannot ask which namespace it runs in.
#[sk_lookup]
pub fn guard_open(ctx: SkLookupContext) -> u32 {
    // SAFETY: the context is the kernel's, and the verifier checks every access to it.
    unsafe { verdict(&ctx, PASS) }
}

/// For pods whose mode is STRICT, or that policies speak of: there, too, nothing comes in that nobody vouches for.
#[sk_lookup]
pub fn guard_closed(ctx: SkLookupContext) -> u32 {
    // SAFETY: as above.
    unsafe { verdict(&ctx, DROP) }
}

#[inline(always)]
unsafe fn verdict(ctx: &SkLookupContext, unknown: u32) -> u32 {
    let lookup = ctx.lookup;
    // SAFETY: fields that the verifier lets this program read.
    let (client, server) = unsafe {
        if field!(lookup, bpf_sk_lookup, protocol) != IPPROTO_TCP {
            return PASS;
        }
        let (remote, local) = if field!(lookup, bpf_sk_lookup, family) == AF_INET {
            (
                mapped(field!(lookup, bpf_sk_lookup, remote_ip4)),
                mapped(field!(lookup, bpf_sk_lookup, local_ip4)),
            )
        } else {
            (ip6_field!(lookup, bpf_sk_lookup, remote_ip6), ip6_field!(lookup, bpf_sk_lookup, local_ip6))
        };
        // The remote port is in network byte order, the local one in the host's.
        let remote_port = port_from_network(field!(lookup, bpf_sk_lookup, remote_port));
        let local_port = field!(lookup, bpf_sk_lookup, local_port);
        (Address { ip: remote, port: remote_port }, Address { ip: local, port: local_port })
    };
    // The mesh's own ports: one speaks TLS only, the other resets what the hook did not send there.
    if server.port == u32::from(HBONE_PORT) || server.port == u32::from(OUTBOUND_PORT) {
        return PASS;
    }
    // Loopback does not come from outside: the kernel drops it there, and so does `to_pod`.
    if is_loopback(&server.ip) || is_loopback(&client.ip) {
        return PASS;
    }
    let Some(pod) = local::local_pod(&server.ip) else { return unknown };
    if is_vouched_for(client, server, &pod) {
        return PASS;
    }
    match local::inbound_port(&pod, &server) {
        Some(port) => plain(client, server, &pod, &port),
        None => unknown,
    }
}

/// What becomes of a connection that nobody vouches for.
#[inline(always)]
fn plain(client: Address, server: Address, pod: &LocalPod, port: &InboundPort) -> u32 {
    if port.probed == 0 || !local::is_node_address(&client.ip) {
        if port.mode == inbound::REFUSE {
            local::count(pod.netns, count::REFUSED);
            return DROP;
        }
        if port.sources != list::NONE && !local::is_allowed(port.sources, &client.ip) {
            local::count(pod.netns, count::DENIED);
            denials::tell(pod.netns, client, server);
            return DROP;
        }
    }
    if port.mode == inbound::COUNT {
        local::count(pod.netns, count::PLAIN);
    }
    PASS
}

/// Whether this very kernel has seen who opens the connection: the pod itself, or one that may.
///
/// Not told by `ingress_ifindex`, which is not `lo` for a pod that talks to its own address; nor by equal addresses,
/// which anybody can write into a SYN.
#[inline(always)]
fn is_vouched_for(client: Address, server: Address, pod: &LocalPod) -> bool {
    let Some(netns) = flows::client_of(client, server) else { return false };
    netns == pod.netns
        || pod.flags & local_flags::DIRECT != 0
            && maps::is_attested(netns)
            && local::has_verdict(netns, pod.netns, server.port)
}

#[inline(always)]
pub fn is_loopback(ip: &Ip) -> bool {
    match unmapped(ip) {
        Some(ip4) => ip4.to_ne_bytes()[0] == 127,
        None => ip[0] == 0 && ip[1] == 0 && ip[2] == 0 && ip[3] == 1_u32.to_be(),
    }
}
