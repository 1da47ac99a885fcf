//! What the hooks know of the node's own network namespace: how a kubelet's probe is known.

use super::KernelError;
use super::address::{to_address, to_ip};
use super::sys;
use super::tables::{failed, found, typed};
use aya::Ebpf;
use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use clap::ValueEnum;
use pillion_ebpf_common::{Ip, NodeEntry, NodeFlow};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

/// How the guards know a kubelet's probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Probes {
    /// `attested` where the hooks are attached at the root of the whole cgroup hierarchy, and so see every process of the
    /// node; else `addresses`.
    #[default]
    Auto,
    /// A socket of the node's own network namespace has opened the connection, and the hooks have seen it.
    Attested,
    /// Besides, it comes from one of the node's addresses. Traffic that the node masquerades does, too.
    Addresses,
}

const PRESENT: u8 = 1;

pub struct NodeTables {
    addresses: BpfHashMap<MapData, Ip, u8>,
    flows: NodeFlowTable,
    by_address: bool,
}

/// A handle on the connections that the node itself has opened to pods. Clones share its descriptor.
#[derive(Clone)]
pub struct NodeFlowTable {
    flows: Arc<BpfHashMap<MapData, NodeFlow, u64>>,
}

impl NodeTables {
    /// The calling thread is in the node's own network namespace.
    pub fn take(ebpf: &mut Ebpf, by_address: bool) -> Result<Self, KernelError> {
        let mut node: Array<_, NodeEntry> = typed(ebpf, "NODE")?;
        let own = UdpSocket::bind("127.0.0.1:0").and_then(sys::netns_cookie);
        let netns = own.map_err(KernelError::NodeNetns)?;
        let entry = NodeEntry { netns, probes_by_address: by_address.into(), zero: 0 };
        node.set(0, entry, 0).map_err(failed("NODE", "written"))?;
        let mut tables = Self {
            addresses: typed(ebpf, "NODE_ADDRESSES")?,
            flows: NodeFlowTable { flows: Arc::new(typed(ebpf, "NODE_FLOWS")?) },
            by_address,
        };
        if !by_address {
            tables.set_addresses(&BTreeSet::new())?;
        }
        Ok(tables)
    }

    /// Whether the node's addresses are enough for a probe.
    pub fn by_address(&self) -> bool {
        self.by_address
    }

    pub fn flows(&self) -> NodeFlowTable {
        self.flows.clone()
    }

    pub fn set_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), KernelError> {
        let has: Result<BTreeSet<Ip>, _> = self.addresses.keys().collect();
        let has = has.map_err(failed("NODE_ADDRESSES", "read"))?;
        let wanted: BTreeSet<Ip> = match self.by_address {
            true => addresses.iter().map(|ip| to_ip(*ip)).collect(),
            // The hooks do not look there.
            false => BTreeSet::new(),
        };
        // What the node has no more goes first, and makes room.
        for ip in has.difference(&wanted) {
            found(self.addresses.remove(ip), "NODE_ADDRESSES")?;
        }
        for ip in wanted.difference(&has) {
            self.addresses.insert(ip, PRESENT, 0).map_err(failed("NODE_ADDRESSES", "written"))?;
        }
        Ok(())
    }
}

impl NodeFlowTable {
    /// Whether a socket of the node's own has opened this connection, which is still there.
    pub fn has(&self, client: SocketAddr, server: SocketAddr) -> Result<bool, KernelError> {
        let flow = NodeFlow { client: to_address(client), server: to_address(server) };
        Ok(found(self.flows.get(&flow, 0), "NODE_FLOWS")?.is_some())
    }
}
