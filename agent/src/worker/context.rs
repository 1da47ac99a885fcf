//! What all tasks of one worker share. One thread: no locks.

use super::admitted::Admitted;
use super::budget::{Budget, Descriptors};
use super::certificate::Identity;
use super::dial::Dialer;
use super::direct::DirectPath;
use super::handshakes::Handshakes;
use super::peers::Inbound;
use super::pool::Pool;
use super::seldom::Seldom;
use crate::mesh::{Mesh, PodName, Workload};
use crate::tally::Tally;
use crate::telemetry::{AccessLog, WorkerMetrics};
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::watch;

pub(super) struct Context {
    pub name: PodName,
    /// The pod, as it was known last.
    pub own: Rc<RefCell<Arc<Workload>>>,
    pub netns_cookie: u64,
    pub mesh: watch::Receiver<Arc<Mesh>>,
    pub direct: DirectPath,
    pub dialer: Rc<Dialer>,
    pub identity: Rc<Identity>,
    pub pool: Pool,
    pub metrics: Arc<WorkerMetrics>,
    pub access_log: Option<AccessLog>,
    /// Connections that the worker carries for its apps.
    pub open: Tally,
    /// Those of them that peers have opened.
    pub admitted: Rc<Admitted>,
    pub budgets: Budgets,
    pub strangers: Strangers,
    /// Counts the times that peers are to be told to open no more streams here.
    pub go_away: watch::Sender<u64>,
}

/// What the pod may take of what all pods of the node share.
pub(super) struct Budgets {
    /// For peers that have not proven who they are.
    pub handshakes: Rc<Handshakes>,
    /// For proven peers: their connections, and those to apps on their behalf.
    pub inbound: Rc<Inbound>,
    /// For what the pod's own apps open, and the worker on their behalf.
    pub outbound: Budget,
}

/// What is logged of those who have proven nothing, and of peers that ask for what there is not.
#[derive(Default)]
pub(super) struct Strangers {
    pub handshakes: Seldom,
    pub requests: Seldom,
    pub exhaustion: Seldom,
}

impl Budgets {
    /// Of a pod of this namespace.
    pub fn of(node: &Descriptors, namespace: &str, metrics: &Arc<WorkerMetrics>) -> Self {
        Self {
            handshakes: Rc::new(Handshakes::new(node.handshakes(namespace, metrics))),
            inbound: Inbound::new(node.inbound(namespace, metrics)),
            outbound: node.outbound(namespace, metrics),
        }
    }
}

impl Context {
    /// The mesh as it is now. What belongs to one decision is taken from one snapshot.
    pub fn mesh(&self) -> Arc<Mesh> {
        self.mesh.borrow().clone()
    }

    /// The pod, as this snapshot has it. A pod whose object is gone while it still runs is what it was before: under its
    /// identity and its policies. Another pod under the same name is another.
    pub fn own(&self, mesh: &Mesh) -> Arc<Workload> {
        let mut own = self.own.borrow_mut();
        if let Some(now) = mesh.workloads.get(&self.name).filter(|now| now.uid == own.uid) {
            own.clone_from(now);
        }
        own.clone()
    }

    /// The pod's addresses, as the mesh has them now.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.own(&self.mesh()).addresses.clone()
    }

    /// Sends GOAWAY on every HBONE connection to this pod: what is open goes on, what is new goes elsewhere.
    pub fn tell_peers_to_go_away(&self) {
        self.go_away.send_modify(|times| *times += 1);
    }
}
