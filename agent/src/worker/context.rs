//! What all tasks of one worker share. One thread: no locks.

use super::certificate::Identity;
use super::dial::Dialer;
use super::pool::Pool;
use crate::mesh::{Mesh, PodName, Workload};
use crate::telemetry::{AccessLog, WorkerMetrics};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{Notify, watch};

pub(super) struct Context {
    pub name: PodName,
    pub mesh: watch::Receiver<Arc<Mesh>>,
    pub dialer: Rc<Dialer>,
    pub identity: Rc<Identity>,
    pub pool: Pool,
    pub metrics: Rc<WorkerMetrics>,
    pub access_log: Option<AccessLog>,
    pub open: OpenConnections,
    /// Counts the times that peers are to be told to open no more streams here.
    pub go_away: watch::Sender<u64>,
}

impl Context {
    /// The mesh as it is now. Not to be held across an await.
    pub fn mesh(&self) -> Arc<Mesh> {
        self.mesh.borrow().clone()
    }

    /// Sends GOAWAY on every HBONE connection to this pod: what is open goes on, what is new goes elsewhere.
    pub fn tell_peers_to_go_away(&self) {
        self.go_away.send_modify(|times| *times += 1);
    }

    /// The pod itself, as the mesh knows it; `None` once it is deleted.
    pub fn workload(&self) -> Option<Arc<Workload>> {
        self.mesh.borrow().workloads.get(&self.name).cloned()
    }
}

/// Counts the connections that a worker carries for its apps.
#[derive(Default)]
pub(super) struct OpenConnections(Rc<Count>);

#[derive(Default)]
struct Count {
    open: Cell<usize>,
    changed: Notify,
}

/// An open connection; dropping it closes it in the count.
pub(super) struct OpenConnection(Rc<Count>);

impl OpenConnections {
    pub fn open(&self) -> OpenConnection {
        self.0.open.set(self.0.open.get() + 1);
        OpenConnection(self.0.clone())
    }

    pub fn count(&self) -> usize {
        self.0.open.get()
    }

    /// Resolves when none is open.
    pub async fn none(&self) {
        while self.count() > 0 {
            self.0.changed.notified().await;
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.changed.notify_waiters();
    }
}
