//! Mutual TLS between workers: TLS 1.3 only, both sides known by one SPIFFE identity.
//!
//! Nothing is resumed: every handshake verifies both certificates in full. Connections are pooled, so that
//! handshakes are rare, and a ticket would let a peer in that its certificate no longer does.
//! Beside it, TLS with a certificate authority (`authority.rs`), which is known by its host name.

mod authority;
mod chain;
mod config;
mod explain;
mod handshake;
mod outgoing;
mod provider;
mod session;
mod spares;
mod stream;
#[cfg(test)]
mod tests;
mod verify;

pub use authority::{authority_client_config, authority_server_config, verify_workload_chain};
pub use chain::{PeerChain, PeerRole};
pub use config::{client_config, peer_chain, peer_identity, server_config};
pub use explain::explain;
pub use handshake::{LARGEST_HANDSHAKE, TlsServer, accept, connect};
pub use verify::VerifyError;
