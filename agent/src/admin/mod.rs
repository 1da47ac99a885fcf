//! The agent's three small HTTP servers: admin (what it holds, and its log level), metrics, health.
//!
//! They answer people, Prometheus and the kubelet, and must not let any of these, or whoever else can reach the
//! ports, slow the mesh: see [`server`] for the limits. What they show comes through [`Introspect`]; nothing in
//! here knows workers or the kernel.

mod listen;
mod routes;
mod server;

use serde_json::Value;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::telemetry::Logging;
pub use listen::ListenError;
use routes::{Admin, Health, Metrics};
use tokio::task::JoinSet;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the servers ask of the node. A future is dropped unfinished when its client goes away.
pub trait Introspect: Send + Sync + 'static {
    /// Everything the agent holds, for `GET /config_dump`. No secrets.
    fn config_dump(&self) -> BoxFuture<'_, Value>;
    /// Runs the audit now and says what it found, for `POST /audit`.
    fn audit(&self) -> BoxFuture<'_, Value>;
    /// Prometheus' text format, for `GET /metrics`.
    fn metrics(&self) -> BoxFuture<'_, String>;
    /// For `GET /healthz/ready`.
    ///
    /// # Errors
    /// What the node waits for, in words.
    fn ready(&self) -> Result<(), Vec<String>>;
}

/// Where the servers listen.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub admin: SocketAddr,
    pub metrics: SocketAddr,
    pub health: SocketAddr,
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
        let (admin, admin_address) = listen::listen("--admin-addr", addresses.admin)?;
        let (metrics, metrics_address) = listen::listen("--metrics-addr", addresses.metrics)?;
        let (health, health_address) = listen::listen("--health-addr", addresses.health)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(server::serve(admin, Arc::new(Admin { node: node.clone(), logging })));
        tasks.spawn(server::serve(metrics, Arc::new(Metrics { node: node.clone() })));
        tasks.spawn(server::serve(health, Arc::new(Health { node })));
        let addresses = Addresses { admin: admin_address, metrics: metrics_address, health: health_address };
        Ok(Self { addresses, _tasks: tasks })
    }
}

#[cfg(test)]
mod tests;
