//! The connections that the kernel vouches for, and who opened them.

use super::KernelError;
use super::address::{from_address, to_address};
use super::sys;
use super::tables::{failed, found, typed};
use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData};
use pillion_ebpf_common::{Flow, FlowEnd as Asked, FlowKey};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

/// A handle on the map `FLOWS`: to read it, and to end what is over. Clones share its descriptors.
#[derive(Clone)]
pub struct FlowTable {
    flows: Arc<BpfHashMap<MapData, FlowKey, Flow>>,
    /// The program `end_flow`.
    end: Arc<OwnedFd>,
}

/// An end of an attested connection that should have a socket behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowEnd {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// The pod's whose end it is.
    pub netns: u64,
    /// Tells it from an end of a later connection between the same addresses.
    opened: u64,
    is_client: bool,
}

/// A direct connection that is open, or just being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttestedFlow {
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// The netns cookie of the pod that opened it.
    pub client_netns: u64,
    /// The netns cookie of the pod that it was opened to.
    pub server_netns: u64,
}

impl FlowTable {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let program = super::program(ebpf, END_PROGRAM)?;
        let end = program
            .fd
            .try_clone_to_owned()
            .map_err(|source| KernelError::Run { program: END_PROGRAM, source })?;
        Ok(Self { flows: Arc::new(typed(ebpf, "FLOWS")?), end: Arc::new(end) })
    }

    /// The connection that an open socket at `local` is an end of, client's or server's. `None` where the entry is of an earlier
    /// connection between the same addresses: one that only waits for the other end.
    pub fn get(&self, local: SocketAddr, remote: SocketAddr) -> Result<Option<AttestedFlow>, KernelError> {
        let (key, local_is_low) = FlowKey::new(to_address(local), to_address(remote));
        let flow = found(self.flows.get(&key, 0), "FLOWS")?.filter(|flow| has_end(flow, local_is_low));
        Ok(flow.map(|flow| attested(&key, &flow)))
    }

    /// All whose client is still there; those that open or close meanwhile may be among them or not.
    pub fn all(&self) -> Result<Vec<AttestedFlow>, KernelError> {
        let entries: Vec<_> = self.flows.iter().collect::<Result<_, _>>().map_err(failed("FLOWS", "read"))?;
        let open = entries.iter().filter(|(_, flow)| flow.client_closed == 0);
        Ok(open.map(|(key, flow)| attested(key, flow)).collect())
    }

    /// The ends that are open, as the kernel has it, of the pods that `concerns` takes.
    pub fn ends(&self, concerns: impl Fn(u64) -> bool) -> Result<Vec<FlowEnd>, KernelError> {
        let mut ends = vec![];
        for entry in self.flows.iter() {
            let (key, flow) = entry.map_err(failed("FLOWS", "read"))?;
            let AttestedFlow { client, server, .. } = attested(&key, &flow);
            let opened = flow.opened;
            if flow.client_closed == 0 && concerns(flow.client) {
                let netns = flow.client;
                ends.push(FlowEnd { local: client, remote: server, netns, opened, is_client: true });
            }
            if flow.server_open != 0 && concerns(flow.server) {
                let netns = flow.server;
                ends.push(FlowEnd { local: server, remote: client, netns, opened, is_client: false });
            }
        }
        Ok(ends)
    }

    /// Does what the socket's own callback would have done when it closed: the entry goes with its last end, and off its
    /// pod's share of the table. Says whether that end was still open.
    pub fn end(&self, end: &FlowEnd) -> Result<bool, KernelError> {
        let (key, _) = FlowKey::new(to_address(end.local), to_address(end.remote));
        let asked = Asked { key, opened: end.opened, is_client: end.is_client.into(), zero: 0 };
        let failed = |source| KernelError::Run { program: END_PROGRAM, source };
        sys::run_program(self.end.as_fd(), &asked).map(|answer| answer == ENDED).map_err(failed)
    }
}

/// What ends an end of an entry: a program, for only programs can do so while others change the entry.
pub const END_PROGRAM: &str = "end_flow";
const ENDED: u32 = 1;

/// Whether that end of the connection is open, or the server's is still to be accepted.
fn has_end(flow: &Flow, is_low: bool) -> bool {
    let is_server = flow.client_is_low != u32::from(is_low);
    flow.client_closed == 0 || is_server && flow.server_open != 0
}

fn attested(key: &FlowKey, flow: &Flow) -> AttestedFlow {
    let (client, server) = if flow.client_is_low == 1 { (key.low, key.high) } else { (key.high, key.low) };
    AttestedFlow {
        client: from_address(&client),
        server: from_address(&server),
        client_netns: flow.client,
        server_netns: flow.server,
    }
}
