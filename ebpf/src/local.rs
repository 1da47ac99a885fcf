//! What the agent tells of this node's pods and Services, and what is decided by it. All of it lies in pinned maps: the
//! programs go on without the agent.

use crate::maps;
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::generated::bpf_get_prandom_u32,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuHashMap, lpm_trie::Key},
};
use core::ptr;
use pillion_ebpf_common::{
    Address, CountKey, Device, EndpointKey, Endpoints, InboundPort, Ip, LocalPod, PodEntry, PodPort, Source,
    Verdict, count, flags, local_flags, source,
};

/// This node's captured pods by each of their addresses.
#[map]
static LOCAL_PODS: HashMap<Ip, LocalPod> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// What becomes of plaintext on ports of a pod that differ from its others. 131072 are 128 pods that use up their quota.
#[map]
static INBOUND_PORTS: HashMap<PodPort, InboundPort> = HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

/// Who may connect in plain: lists of networks, one for all pods and ports that policies say the same of. 262144 are 128
/// pods that use up their quota with lists of their own. A list that finds no room is written as nobody's.
#[map]
static SOURCES: LpmTrie<Source, u8> = LpmTrie::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// The pods behind the node's veths, by index.
#[map]
static DEVICES: HashMap<u32, Device> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// The generation of the policies in force.
#[map]
static GENERATION: Array<u64> = Array::with_max_entries(1, 0);

/// Who may connect to whom directly. LRU: a verdict that is gone is a slow path once more.
#[map]
static VERDICTS: LruHashMap<Verdict, u8> = LruHashMap::with_max_entries(65536, 0);

/// Services that have an endpoint on this node, by cluster IP and port. (The worker knows the others.)
#[map]
static SERVICES: HashMap<Address, Endpoints> = HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// 262144 are 16 Kubernetes namespaces that use up their quota, twice: a list is written before the former one goes.
#[map]
static ENDPOINTS: HashMap<EndpointKey, Address> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// What is counted of each pod; the agent makes the entries.
#[map]
static COUNTS: PerCpuHashMap<CountKey, u64> =
    PerCpuHashMap::with_max_entries(4096 * count::ALL, BPF_F_NO_PREALLOC);

#[inline(always)]
pub fn local_pod(ip: &Ip) -> Option<LocalPod> {
    // SAFETY: a lookup; the entry is copied before the agent could change it under the program.
    unsafe { LOCAL_PODS.get(ip) }.copied()
}

#[inline(always)]
pub fn device(index: u32) -> Option<Device> {
    // SAFETY: as above.
    unsafe { DEVICES.get(index) }.copied()
}

/// What becomes of plaintext at this address, which is the pod's. None: it was, just now.
#[inline(always)]
pub fn inbound_port(pod: &LocalPod, at: &Address) -> Option<InboundPort> {
    if pod.flags & local_flags::HAS_PORTS == 0 {
        return Some(of_other_ports(pod));
    }
    // SAFETY: as above.
    if let Some(port) = unsafe { INBOUND_PORTS.get(PodPort { netns: pod.netns, port: at.port, zero: 0 }) } {
        return Some(*port);
    }
    // Perhaps the port had an entry when the pod was read, and what the pod said was never meant for it. The pod
    // changes before a port's entry goes.
    local_pod(&at.ip).map(|pod| of_other_ports(&pod))
}

#[inline(always)]
fn of_other_ports(pod: &LocalPod) -> InboundPort {
    InboundPort { mode: pod.inbound, sources: pod.sources, probed: 0 }
}

/// Whether the list lets connections from there in.
#[inline(always)]
pub fn is_allowed(list: u32, ip: &Ip) -> bool {
    let allowed = SOURCES.get(Key::new(Source::ALL_BITS, Source { list, ip: *ip }));
    allowed.is_some_and(|verdict| *verdict == source::ALLOWED)
}

/// Whether the policies in force let this pod connect to that one directly: decided by the agent, remembered here.
#[inline(always)]
pub fn has_verdict(source: u64, destination: u64, port: u32) -> bool {
    let Some(generation) = GENERATION.get_ptr(0) else { return false };
    // SAFETY: a value of the array; the agent may change it at any time, as one word.
    let generation = unsafe { ptr::read_volatile(generation) };
    // SAFETY: a lookup; the value is not read.
    unsafe { VERDICTS.get(Verdict { source, destination, generation, port, zero: 0 }) }.is_some()
}

/// Where a connection goes.
pub enum Way {
    /// There, and the kernel vouches for it.
    Direct(Address),
    /// To the worker; the endpoint that was chosen for it, or port 0.
    Worker(Address),
}

/// Chooses the way, and the endpoint where a Service is asked for.
#[inline(always)]
pub fn way(netns: u64, pod: &PodEntry, asked: &Address) -> Way {
    const NONE: Address = Address { ip: [0; 4], port: 0 };
    if pod.flags & flags::DIRECT == 0 {
        return Way::Worker(NONE);
    }
    let (target, chosen, local) = match local_pod(&asked.ip) {
        Some(local) => (*asked, NONE, local),
        None => {
            let Some(endpoint) = endpoint(asked) else { return Way::Worker(NONE) };
            match local_pod(&endpoint.ip) {
                Some(local) => (endpoint, endpoint, local),
                None => return Way::Worker(endpoint),
            }
        }
    };
    // An endpoint that the pod keeps out of the mesh under its own address goes by the worker: its SYN could leave in plain,
    // which is what the pod asks for there, and not of the Service.
    let is_excluded = chosen.port != 0 && maps::is_excluded(netns, pod, &target.ip, target.port);
    if local.flags & local_flags::DIRECT != 0 && !is_excluded && has_verdict(netns, local.netns, target.port)
    {
        return Way::Direct(target);
    }
    Way::Worker(chosen)
}

/// One of a Service's endpoints, by chance.
#[inline(always)]
fn endpoint(service: &Address) -> Option<Address> {
    // SAFETY: a lookup; the entry is copied. A list that is replaced in between is gone: then the worker chooses.
    let Endpoints { list, count } = *unsafe { SERVICES.get(service) }?;
    if count == 0 {
        return None;
    }
    // SAFETY: a helper without arguments.
    let index = unsafe { bpf_get_prandom_u32() } % count;
    // SAFETY: as above.
    unsafe { ENDPOINTS.get(EndpointKey { list, index }) }.copied()
}

/// Adds one to what is counted of a pod.
#[inline(always)]
pub fn count(netns: u64, what: u32) {
    if let Some(count) = COUNTS.get_ptr_mut(CountKey { netns, what, zero: 0 }) {
        // SAFETY: this CPU's own value.
        unsafe { *count += 1 };
    }
}
