//! What to do with a connection. Every decision is a function of the mesh and of what the connection says:
//! no socket, no clock, no randomness of its own.

mod inbound;
mod outbound;

pub use inbound::{InboundError, inbound};
pub use outbound::{Outbound, Refusal, outbound};

/// The ports that are a worker's own in a captured pod: outbound, inbound, HBONE (Istio's numbers).
const RESERVED_PORTS: [u16; 3] = [15001, 15006, 15008];

/// A tunnel to such a port would lead into the mesh again, without end.
fn is_reserved(port: u16) -> bool {
    RESERVED_PORTS.contains(&port)
}
