//! From Kubernetes objects to one immutable [`Mesh`](crate::mesh::Mesh).
//!
//! Three steps, each of its own: [`objects`] reads text into the few fields that matter, [`snapshot`] builds a
//! mesh from objects (pure), [`watch`] does both again whenever the directory changes. Anything wrong is a
//! [`ManifestError`] that says where; the last good mesh stays until it is mended. A policy that is wrong is refused
//! alone ([`refused`]): the rest goes on, under the policy's last good form.
//! Nothing in here knows what the mesh is used for.

#![forbid(unsafe_code)]

mod authorization;
mod error;
mod last_good;
mod metadata;
pub mod names;
mod null;
pub mod objects;
mod peer_authentication;
mod policies;
mod probes;
mod refused;
mod scan;
mod selector;
mod services;
pub mod snapshot;
pub mod watch;
mod workloads;

mod text;

#[cfg(test)]
mod hostile_tests;

pub use error::{ManifestError, Place};
pub use objects::{Object, Sourced};
pub use policies::ROOT_NAMESPACE;
pub use refused::{InForce, Refusal};
pub use snapshot::Settings;
pub use text::parse;
pub use watch::{ManifestSource, ManifestStatus};
pub use workloads::CAPTURE;
