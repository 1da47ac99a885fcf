//! What to do with a connection. Every decision is a function of the mesh and of what the connection says:
//! no socket, no clock, no randomness of its own.

#![forbid(unsafe_code)]

mod authorize;
mod direct;
mod endpoints;
mod explain;
mod inbound;
mod not_direct;
mod outbound;
mod placement;
mod plaintext;
mod ports;
mod refusal;
mod services;

pub use authorize::{Connection, Judgement, Matched, Verdict, authorize, judge};
pub use direct::{DirectMode, Permit, PermittedPod, direct, direct_by, path};
pub use endpoints::endpoints;
pub use explain::{Explanation, explain};
pub use inbound::{InboundError, inbound, peer, presented};
pub use not_direct::NotDirect;
pub use outbound::{Outbound, outbound};
pub use placement::{Placed, Placement, PodAddresses, Standing};
pub use plaintext::{PlaintextRules, SourceRules, asks_for_own_address, plaintext};
pub use refusal::Refusal;
pub use services::{NodeServices, services_of_node};
