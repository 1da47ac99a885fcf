//! Istio's certificate authority protocol: `istio.v1.auth.IstioCertificateService`, one gRPC call over TLS.
//!
//! What both sides need is here ([`messages`]) and in [`crate::grpc`], and the client, [`RemoteCa`]. The server is `pillion ca serve`.

#![forbid(unsafe_code)]

mod address;
mod advice;
mod channel;
mod client;
mod cluster_id;
pub(crate) mod messages;
mod roots;
#[cfg(test)]
mod tests;

pub use address::CaAddr;
pub use client::{RemoteCa, RemoteOptions};
pub use cluster_id::ClusterId;
pub use roots::{CRLS, ROOTS};
