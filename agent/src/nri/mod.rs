//! The container runtime's side of a pod: NRI, the interface by which containerd (from 1.7) and CRI-O ask plugins.
//!
//! The runtime says when a pod's network namespace is there, before anything runs in it, and waits for an answer: that is
//! the moment to capture a pod. Two plugins share the protocol:
//! - [`Client`], the agent's: it tells the node of sandboxes and brings back its answers;
//! - [`hold`], which the runtime itself starts: it lets no container of a pod that is to be in the mesh begin before the
//!   agent has given the pod a pass ([`Passes`]), so that a node that boots, or one whose agent is away, never runs it plain.
//!
//! [`frames`] and [`session`] are without I/O: bytes in, events and bytes out. Nothing in here knows workers or the kernel.

#![forbid(unsafe_code)]

mod client;
mod frames;
pub mod hold;
mod install;
mod messages;
mod options;
mod passes;
mod sandbox;
mod session;

pub use client::Client;
pub use install::Installation;
pub use options::NriOptions;
pub use passes::Passes;
pub(crate) use session::Session;
