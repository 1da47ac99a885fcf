//! From Kubernetes objects to one immutable [`Mesh`](crate::mesh::Mesh).
//!
//! Three steps, each of its own: [`objects`] reads JSON into the few fields that matter, [`snapshot`] builds a
//! mesh from objects (pure), [`publish`] makes a new generation of it. [`watch`] does all three again whenever a directory
//! changes; `cluster` does so for an API server. Anything wrong is a [`ManifestError`] that says where. In a directory the
//! last good mesh stays until it is mended, in a cluster each object is wrong alone. A policy that is wrong is refused
//! alone ([`refused`]) in both: the rest goes on, under the policy's last good form or under what stands in for it ([`last_good`]).
//! Nothing in here knows what the mesh is used for.

#![forbid(unsafe_code)]

mod authorization;
mod complaint;
mod error;
mod kept;
mod last_good;
mod limit;
mod metadata;
pub mod names;
mod network_policies;
mod null;
pub mod objects;
mod owners;
mod peer_authentication;
mod policies;
mod probes;
mod publish;
mod refused;
mod scan;
mod selector;
mod services;
pub mod snapshot;
mod vanished;
mod warnings;
pub mod watch;
mod workloads;

mod text;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod test_dir;

pub use complaint::Complaint;
pub use error::{ManifestError, Origin, Place};
pub use objects::{Mistake, Object, Sourced};
pub use policies::ROOT_NAMESPACE;
pub use publish::{ManifestStatus, Published, Publisher, WatchState, WatchStatus};
pub use refused::{InForce, PolicyKind, Refusal};
pub use services::CompiledServices;
pub use snapshot::{Settings, build};
pub use text::parse;
pub use warnings::PolicyWarnings;
pub use watch::ManifestSource;
pub use workloads::CAPTURE;
