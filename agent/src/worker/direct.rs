//! The slow path's part in the direct one: what a worker has decided, the kernel remembers.

use crate::decide::{DirectMode, direct};
use crate::kernel::VerdictTable;
use crate::mesh::{Mesh, Workload};
use std::cell::RefCell;
use std::net::SocketAddr;

pub(super) struct Direct {
    mode: DirectMode,
    /// The pod's netns cookie.
    netns: u64,
    verdicts: RefCell<VerdictTable>,
}

impl Direct {
    pub fn new(mode: DirectMode, netns: u64, verdicts: VerdictTable) -> Self {
        Self { mode, netns, verdicts: RefCell::new(verdicts) }
    }

    /// Lets the connections after this one go directly, if mesh and policies allow it.
    pub fn learn(&self, mesh: &Mesh, source: &Workload, destination: &Workload, target: SocketAddr) {
        if self.mode == DirectMode::Auto && direct(source, destination, target.port()).is_ok() {
            self.verdicts.borrow_mut().allow(self.netns, target, mesh.policy);
        }
    }
}
