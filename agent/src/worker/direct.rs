//! A worker's part in the direct path: what it has decided once, the kernel remembers.

use crate::decide::{DirectMode, direct};
use crate::direct::Samples;
use crate::kernel::{FlowTable, KernelError, NodeFlowTable, SockDiagError, VerdictTable};
use crate::mesh::{Mesh, Workload};
use std::cell::RefCell;
use std::net::SocketAddr;

/// What a worker has to do with connections that it does not carry.
pub struct DirectPath {
    pub mode: DirectMode,
    pub flows: FlowTable,
    /// What the node itself has opened to its pods: the kubelet's probes.
    pub node_flows: NodeFlowTable,
    pub verdicts: RefCell<VerdictTable>,
    pub samples: Samples,
}

/// Why the pod's sockets cannot be compared with the direct connections.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    #[error(transparent)]
    Sockets(#[from] SockDiagError),
    #[error(transparent)]
    Flows(#[from] KernelError),
}

impl DirectPath {
    /// Lets the connections after this one go directly, if mesh and policies allow it. `netns` is the source's cookie.
    pub(super) fn learn(
        &self,
        netns: u64,
        mesh: &Mesh,
        source: &Workload,
        destination: &Workload,
        target: SocketAddr,
    ) {
        if self.mode == DirectMode::Auto && direct(source, destination, target.port()).is_ok() {
            self.verdicts.borrow_mut().allow(netns, target, mesh.policy);
        }
    }
}
