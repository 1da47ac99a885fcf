//! The node's own connections to its pods: the kubelet's probes. What a socket of the node's own network namespace opens
//! is written down; masqueraded traffic and forged packets have the node's address, and no such socket.

use crate::{
    context::Ends,
    local,
    usage::{self, BPF_NOEXIST, EEXIST, PodUsage},
};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap},
};
use pillion_ebpf_common::{Address, Ip, NodeEntry, NodeFlow, table};

/// The node's own network namespace, as the agent says it.
#[map]
static NODE: Array<NodeEntry> = Array::with_max_entries(1, 0);

/// What sockets of that namespace have opened to captured pods, until they close; with the pod, by netns cookie. Where there is
/// no room, or the pod's share is used up, the guard takes a probe for plaintext. 131072 are 32 pods that use up their quota.
#[map]
static NODE_FLOWS: HashMap<NodeFlow, u64> = HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

/// Where probes are known by address: the node's own addresses.
#[map]
static NODE_ADDRESSES: HashMap<Ip, u8> = HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Whether this is the node's own namespace.
#[inline(always)]
pub fn is_node(netns: u64) -> bool {
    // SAFETY: a value of the array, which the agent writes when it starts.
    NODE.get_ptr(0).is_some_and(|node| unsafe { (*node).netns } == netns)
}

/// Writes down what a socket of the node's opens to a captured pod. False where it goes elsewhere.
#[inline(always)]
pub fn attest(ends: &Ends) -> bool {
    let Some(pod) = local::local_pod(&ends.remote_ip) else { return false };
    let flow = NodeFlow { client: ends.local(), server: ends.remote() };
    let is_written = usage::of(pod.netns)
        .is_some_and(|usage| usage.node_flows().has_room() && insert(&flow, pod.netns, &usage));
    if !is_written {
        usage::count_failed(table::NODE_FLOWS);
    }
    is_written
}

#[inline(always)]
fn insert(flow: &NodeFlow, netns: u64, usage: &PodUsage) -> bool {
    let mut inserted = NODE_FLOWS.insert(flow, netns, BPF_NOEXIST);
    // An earlier connection of the same addresses has left it, to another pod perhaps.
    if inserted == Err(EEXIST) {
        remove(flow);
        inserted = NODE_FLOWS.insert(flow, netns, BPF_NOEXIST);
    }
    if inserted.is_err() {
        return false;
    }
    usage.node_flows().add();
    true
}

/// Removes an entry, and takes it off its pod's share.
#[inline(always)]
fn remove(flow: &NodeFlow) {
    // SAFETY: a lookup; the value is copied.
    let Some(netns) = unsafe { NODE_FLOWS.get(flow) }.copied() else { return };
    if NODE_FLOWS.remove(flow).is_ok()
        && let Some(usage) = usage::of(netns)
    {
        usage.node_flows().subtract();
    }
}

/// A socket of the node's is gone.
#[inline(always)]
pub fn forget(ends: &Ends) {
    remove(&NodeFlow { client: ends.local(), server: ends.remote() });
}

/// Whether the node itself opens that connection, as far as that can be known.
#[inline(always)]
pub fn is_probe(client: Address, server: Address) -> bool {
    // SAFETY: a lookup; the value is not read.
    if unsafe { NODE_FLOWS.get(NodeFlow { client, server }) }.is_some() {
        return true;
    }
    // SAFETY: as in `is_node`, and as above.
    let by_address = NODE.get_ptr(0).is_some_and(|node| unsafe { (*node).probes_by_address } != 0);
    by_address && unsafe { NODE_ADDRESSES.get(client.ip) }.is_some()
}
