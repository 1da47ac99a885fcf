//! The node's own connections to its pods: the kubelet's probes. What a socket of the node's own network namespace opens
//! is written down; masqueraded traffic and forged packets have the node's address, and no such socket.

use crate::{context::Ends, local, usage};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap},
};
use pillion_ebpf_common::{Address, Ip, NodeEntry, NodeFlow, table};

/// The node's own network namespace, as the agent says it.
#[map]
static NODE: Array<NodeEntry> = Array::with_max_entries(1, 0);

/// What sockets of that namespace have opened to captured pods, until they close. Where there is no room, the guard takes a
/// probe for plaintext.
#[map]
static NODE_FLOWS: HashMap<NodeFlow, u8> = HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Where probes are known by address: the node's own addresses.
#[map]
static NODE_ADDRESSES: HashMap<Ip, u8> = HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

const PRESENT: u8 = 1;

/// Whether this is the node's own namespace.
#[inline(always)]
pub fn is_node(netns: u64) -> bool {
    // SAFETY: a value of the array, which the agent writes when it starts.
    NODE.get_ptr(0).is_some_and(|node| unsafe { (*node).netns } == netns)
}

/// Writes down what a socket of the node's opens to a captured pod. False where it goes elsewhere.
#[inline(always)]
pub fn attest(ends: &Ends) -> bool {
    if local::local_pod(&ends.remote_ip).is_none() {
        return false;
    }
    let flow = NodeFlow { client: ends.local(), server: ends.remote() };
    if NODE_FLOWS.insert(flow, PRESENT, 0).is_err() {
        usage::count_failed(table::NODE_FLOWS);
        return false;
    }
    true
}

/// A socket of the node's is gone.
#[inline(always)]
pub fn forget(ends: &Ends) {
    let _ = NODE_FLOWS.remove(NodeFlow { client: ends.local(), server: ends.remote() });
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
