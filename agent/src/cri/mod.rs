//! The container runtime's side of a pod where NRI is off: CRI, the interface by which a kubelet asks containerd or CRI-O.
//!
//! A fallback, and best effort: nobody waits for the agent. It hears of a sandbox when it is there, and the pod's first
//! container may be faster. What is told is the same as by `nri`; nothing is ever asked.
//!
//! [`grpc`] speaks to the runtime, [`sandbox`] reads what it says of a pod, [`client`] keeps both up.

#![forbid(unsafe_code)]

mod client;
mod grpc;
mod messages;
mod options;
mod sandbox;

pub use client::Client;
pub use options::CriOptions;

use crate::sandbox::Sandbox;
use prost::Message as _;

/// What an answer to `PodSandboxStatus` says of a pod.
///
/// # Errors
/// When it is no such answer.
pub(crate) fn read_status(answer: &[u8]) -> Result<Sandbox, prost::DecodeError> {
    messages::PodSandboxStatusResponse::decode(answer).map(|response| sandbox::read(response).0)
}
