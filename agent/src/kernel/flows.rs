//! The connections that the kernel vouches for, and who opened them.

use super::KernelError;
use super::address::{from_address, to_address};
use super::tables::{failed, found, typed};
use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData};
use pillion_ebpf_common::{Flow, FlowKey};
use std::net::SocketAddr;
use std::sync::Arc;

/// A handle on the map `FLOWS`, to read it. Clones share its descriptor.
#[derive(Clone)]
pub struct FlowTable {
    flows: Arc<BpfHashMap<MapData, FlowKey, Flow>>,
}

/// A direct connection that is open, or just being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttestedFlow {
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// The netns cookie of the pod that opened it.
    pub client_netns: u64,
}

impl FlowTable {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self { flows: Arc::new(typed(ebpf, "FLOWS")?) })
    }

    /// The connection between these two, whichever of them is the client.
    pub fn get(&self, one: SocketAddr, other: SocketAddr) -> Result<Option<AttestedFlow>, KernelError> {
        let (key, _) = FlowKey::new(to_address(one), to_address(other));
        Ok(found(self.flows.get(&key, 0), "FLOWS")?.map(|flow| attested(&key, &flow)))
    }

    /// All whose client is still there; those that open or close meanwhile may be among them or not.
    pub fn all(&self) -> Result<Vec<AttestedFlow>, KernelError> {
        let entries: Vec<_> = self.flows.iter().collect::<Result<_, _>>().map_err(failed("FLOWS", "read"))?;
        let open = entries.iter().filter(|(_, flow)| flow.client_closed == 0);
        Ok(open.map(|(key, flow)| attested(key, flow)).collect())
    }
}

fn attested(key: &FlowKey, flow: &Flow) -> AttestedFlow {
    let (client, server) = if flow.client_is_low == 1 { (key.low, key.high) } else { (key.high, key.low) };
    AttestedFlow { client: from_address(&client), server: from_address(&server), client_netns: flow.client }
}
