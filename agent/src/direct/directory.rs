//! Whose ends the kernel tells of.

use crate::mesh::{Mesh, Workload};
use crate::telemetry::WorkerMetrics;
use std::collections::HashMap;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

/// The captured pods of this node and the mesh around them, at one moment. What is told of a connection is taken from
/// one of these.
#[derive(Default)]
pub struct Directory {
    mesh: Arc<Mesh>,
    /// By netns cookie.
    pods: HashMap<u64, Pod>,
    /// The netns cookies of their addresses.
    netns: HashMap<IpAddr, u64>,
}

/// A captured pod of this node.
#[derive(Clone)]
pub struct Pod {
    pub workload: Arc<Workload>,
    pub metrics: Arc<WorkerMetrics>,
}

impl Directory {
    /// `pods` are the captured pods of this node by netns cookie. A pod belongs in here before the kernel captures it:
    /// what the kernel tells of a pod that is not known is lost.
    pub fn new(mesh: Arc<Mesh>, pods: HashMap<u64, Pod>) -> Self {
        let addresses = |(cookie, pod): (&u64, &Pod)| {
            let cookie = *cookie;
            pod.workload.addresses.clone().into_iter().map(move |ip| (ip, cookie))
        };
        let netns = pods.iter().flat_map(addresses).collect();
        Self { mesh, pods, netns }
    }

    pub(super) fn netns(&self, ip: IpAddr) -> Option<u64> {
        self.netns.get(&ip).copied()
    }
}

/// The directory in use, and pods that were in an earlier one: what the kernel tells last of a pod is read when it is
/// gone. A cookie is never another's.
#[derive(Default)]
pub(super) struct Known {
    pub directory: Arc<Directory>,
    departed: HashMap<u64, Departed>,
}

struct Departed {
    pod: Pod,
    /// Until it is looked at for the first time.
    fresh: bool,
}

impl Known {
    pub fn follow(&mut self, directory: &Arc<Directory>) {
        let before = mem::replace(&mut self.directory, directory.clone());
        let departed = before.pods.iter().filter(|(netns, _)| !directory.pods.contains_key(netns));
        self.departed
            .extend(departed.map(|(netns, pod)| (*netns, Departed { pod: pod.clone(), fresh: true })));
    }

    /// Forgets those that had departed at the last call.
    pub fn forget_departed(&mut self) {
        self.departed.retain(|_, departed| mem::take(&mut departed.fresh));
    }

    pub fn pod(&self, netns: u64) -> Option<&Pod> {
        let departed = || self.departed.get(&netns).map(|departed| &departed.pod);
        self.directory.pods.get(&netns).or_else(departed)
    }

    pub fn mesh(&self) -> &Mesh {
        &self.directory.mesh
    }
}
