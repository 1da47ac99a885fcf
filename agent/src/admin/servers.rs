//! Starts and ends the three servers.

use super::introspect::{Introspect, Vitals};
use super::listen::{ListenError, listen};
use super::routes::{Admin, Health, Metrics};
use super::server::serve;
use crate::telemetry::Logging;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Where the servers listen.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub admin: SocketAddr,
    pub metrics: SocketAddr,
    pub health: SocketAddr,
}

/// Serves metrics and health alone, of a program that is no agent.
pub struct VitalsServers {
    _tasks: JoinSet<()>,
}

impl VitalsServers {
    /// # Errors
    /// When an address cannot be listened on; then none is.
    pub fn start(
        metrics: SocketAddr,
        health: SocketAddr,
        program: Arc<dyn Vitals>,
    ) -> Result<Self, ListenError> {
        let (metrics, _) = listen("--metrics-addr", metrics)?;
        let (health, _) = listen("--health-addr", health)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(metrics, Arc::new(Metrics { node: program.clone() })));
        tasks.spawn(serve(health, Arc::new(Health { node: program })));
        Ok(Self { _tasks: tasks })
    }
}

/// The servers; they end when this is dropped.
pub struct Servers {
    /// Where they listen in truth: port 0 has become a port.
    pub addresses: Addresses,
    _tasks: JoinSet<()>,
}

impl Servers {
    /// Listens on all three addresses, then serves them on the caller's tokio runtime.
    ///
    /// # Errors
    /// When an address cannot be listened on; then none is.
    pub fn start(
        addresses: Addresses,
        node: Arc<dyn Introspect>,
        logging: Logging,
    ) -> Result<Self, ListenError> {
        let (admin, admin_address) = listen("--admin-addr", addresses.admin)?;
        let (metrics, metrics_address) = listen("--metrics-addr", addresses.metrics)?;
        let (health, health_address) = listen("--health-addr", addresses.health)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(admin, Arc::new(Admin { node: node.clone(), logging })));
        tasks.spawn(serve(metrics, Arc::new(Metrics { node: node.clone() })));
        tasks.spawn(serve(health, Arc::new(Health { node })));
        let addresses = Addresses { admin: admin_address, metrics: metrics_address, health: health_address };
        Ok(Self { addresses, _tasks: tasks })
    }
}
