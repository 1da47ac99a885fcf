//! What to do with a connection. Every decision is a function of the mesh and of what the connection says:
//! no socket, no clock, no randomness of its own.

#![forbid(unsafe_code)]

mod inbound;
mod outbound;
mod ports;

pub use inbound::{InboundError, inbound};
pub use outbound::{Outbound, Refusal, outbound};
