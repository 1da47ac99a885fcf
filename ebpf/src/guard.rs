//! sk_lookup, in each captured pod's namespace: what plaintext a pod takes. It runs for what belongs to no open
//! connection: SYNs, and strays.

use crate::{
    context::{field, ip6_field, is_loopback, port_from_network},
    denials, flows, local, maps, node,
};
use aya_ebpf::{
    Global,
    bindings::bpf_sk_lookup,
    macros::{map, sk_lookup},
    maps::SockHash,
    programs::SkLookupContext,
};
use pillion_ebpf_common::{
    Address, HBONE_PORT, HandoffKey, InboundPort, LocalPod, OUTBOUND_PORT, count, inbound, list, local_flags,
    mapped,
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
    if is_loopback(&server.ip) {
        // SAFETY: a field that the verifier lets this program read, behind a branch that older kernels never see.
        return unsafe { loopback(lookup) };
    }
    if server.port == u32::from(HBONE_PORT) {
        return to_worker(ctx, &server, unknown);
    }
    let pod = local::local_pod(&server.ip);
    if is_loopback(&client.ip) || client.ip == server.ip {
        return own(client, server, pod.as_ref(), unknown);
    }
    // Only what the hook sends comes there, and from within the pod. Whoever listens on that port at another address than the
    // worker does is none of the mesh.
    if server.port == u32::from(OUTBOUND_PORT) {
        return DROP;
    }
    let Some(pod) = pod else { return unknown };
    if is_vouched_for(client, server, &pod) {
        return PASS;
    }
    match local::inbound_port(&pod, &server) {
        Some(port) => plain(client, server, &pod, &port),
        None => unknown,
    }
}

/// The workers' listeners for peers, by netns cookie. The kernel takes one out when it closes.
#[map]
static HBONE: SockHash<u64> = SockHash::with_max_entries(4096, 0);

/// What goes to the port of the workers goes to the pod's own worker, which speaks TLS only. Any process of the pod may listen
/// there while no worker does: it gets nothing.
#[inline(always)]
fn to_worker(ctx: &SkLookupContext, server: &Address, unknown: u32) -> u32 {
    let Some(pod) = local::local_pod(&server.ip) else { return unknown };
    if pod.flags & local_flags::LEAVING != 0 {
        return PASS;
    }
    match HBONE.redirect_sk_lookup(ctx, pod.netns, 0) {
        Ok(()) => PASS,
        Err(_) => DROP,
    }
}

/// Whether the kernel tells the program by which device a packet comes: Linux 5.17. Set by the agent when it loads the
/// program; the verifier never looks at a branch that is off.
#[unsafe(no_mangle)]
static INGRESS: Global<u8> = Global::new(0);

/// The index of `lo`, in every network namespace.
const LO: u32 = 1;

/// What goes to loopback comes by `lo`, or is no packet at all but a look-up of a program's (index 0). From outside it
/// comes where `route_localnet` is on, as kube-proxy has it.
///
/// # Safety
/// `lookup` is the context's.
#[inline(always)]
unsafe fn loopback(lookup: *mut bpf_sk_lookup) -> u32 {
    if INGRESS.load() == 0 {
        return PASS;
    }
    // SAFETY: the caller's promise.
    match unsafe { field!(lookup, bpf_sk_lookup, ingress_ifindex) } {
        0 | LO => PASS,
        _ => DROP,
    }
}

/// What becomes of a connection that says it comes from within the pod. Anybody can write such addresses into a SYN, so that
/// a program has to have seen its socket: that of an app, of the worker to an app, or of an app to the worker. Without an
/// entry the connection is refused: an app would take it for its own pod's, whatever it is.
///
/// Not told by `ingress_ifindex`, which is not `lo` for a pod that talks to its own address.
#[inline(always)]
fn own(client: Address, server: Address, pod: Option<&LocalPod>, unknown: u32) -> u32 {
    let Some(pod) = pod else {
        // An address that the mesh does not know takes plaintext from everybody, or from nobody; loopback never comes to
        // it, for no hook attests that.
        return if is_loopback(&client.ip) { DROP } else { unknown };
    };
    let key = HandoffKey {
        netns: pod.netns,
        source_ip: client.ip,
        source_port: client.port,
        destination_port: server.port,
    };
    if pod.flags & local_flags::LEAVING != 0 {
        return PASS;
    }
    let is_seen = maps::is_handed_off(&key) || flows::client_of(client, server) == Some(pod.netns);
    if is_seen { PASS } else { DROP }
}

/// What becomes of a connection that nobody vouches for.
#[inline(always)]
fn plain(client: Address, server: Address, pod: &LocalPod, port: &InboundPort) -> u32 {
    if port.probed == 0 || !node::is_probe(client, server) {
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

/// Whether this very kernel has seen who opens the connection, and the policies in force let him.
#[inline(always)]
fn is_vouched_for(client: Address, server: Address, pod: &LocalPod) -> bool {
    let Some(netns) = flows::client_of(client, server) else { return false };
    pod.flags & local_flags::DIRECT != 0
        && maps::is_attested(netns)
        && local::has_verdict(netns, pod.netns, server.port)
}
