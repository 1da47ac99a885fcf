//! The agent's three small HTTP servers: admin (what it holds, and its log level), metrics, health.
//!
//! They answer people, Prometheus and the kubelet, and must not let any of these, or whoever else can reach the
//! ports, slow the mesh: see `server` for the limits. What they show comes through [`Introspect`]; nothing in
//! here knows workers or the kernel.

#![forbid(unsafe_code)]

mod introspect;
mod listen;
mod routes;
mod server;
mod servers;

pub use introspect::{AuthzQuestion, BoxFuture, Introspect, Vitals};
pub use listen::{ListenError, listen};
pub use servers::{Addresses, Servers, VitalsServers};

#[cfg(test)]
mod tests;
