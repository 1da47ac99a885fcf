//! A worker's part in the direct path: what it has decided once, the kernel remembers.

use crate::decide::{DirectMode, Placement, direct};
use crate::direct::Samples;
use crate::kernel::{FlowTable, KernelError, NodeFlowTable, SockDiagError, VerdictTable};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// What a worker has to do with connections that it does not carry.
pub struct DirectPath {
    pub mode: DirectMode,
    /// The node's pods as the kernel has them: what direct connections are decided by.
    pub placement: watch::Receiver<Arc<Placement>>,
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
    #[error("the agent's own sockets cannot be listed: {0}")]
    Own(#[from] std::io::Error),
}

impl DirectPath {
    /// The node's pods as they are now. What belongs to one decision is taken from one snapshot.
    pub(super) fn placement(&self) -> Arc<Placement> {
        self.placement.borrow().clone()
    }

    /// Lets the connections after this one go directly, if the target is a pod of this node and policies have allowed all
    /// that the two may do to each other there. `netns` is the source's cookie.
    pub(super) fn learn(&self, netns: u64, target: SocketAddr) {
        if self.mode == DirectMode::Off {
            return;
        }
        let placement = self.placement();
        let permit = placement
            .at(target.ip())
            .and_then(|destination| direct(&placement, netns, destination, target.port()).ok());
        if let Some(permit) = permit {
            self.verdicts.borrow_mut().allow(&permit);
        }
    }
}
