//! The agent's small HTTP servers: admin (what it holds, and its log level), metrics, and health with a thread of its own.
//!
//! They answer people, Prometheus and the kubelet, and must not let any of these, or whoever else can reach the
//! ports, slow the mesh: see `server` for the limits. What they show comes through [`Introspect`]; nothing in
//! here knows workers or the kernel.

#![forbid(unsafe_code)]

pub(crate) mod fuzz;
mod health;
mod introspect;
mod listen;
mod routes;
mod server;
mod servers;

pub use health::{HealthServer, Probe, ask};
pub use introspect::{AuthzQuestion, BoxFuture, Introspect, Probes, Vitals};
pub use listen::{ListenError, listen};
pub use servers::{Addresses, Servers, VitalsServers};

#[cfg(test)]
mod tests;
