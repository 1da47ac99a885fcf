//! Kubernetes objects from the API server: the same mesh as from a directory of manifests.
//!
//! [`resources`] says what is read, [`watch`] keeps one resource current, [`store`] holds what is known of all, and
//! [`source`] has a mesh made of it. Only the fields that the mesh reads are kept ([`Object`](crate::manifest::Object)); what
//! they mean `manifest` knows. While the API server is away everything stays as it was.
//! Others follow resources of their own ([`follow`]): the certificate authority its pods and its Secret, its clients the roots.
//! [`daemon_set`] is apart: how an agent hears that it is to leave its node for good.
//! Nothing in here knows what the mesh is used for.

#![forbid(unsafe_code)]

mod backoff;
mod connect;
mod daemon_set;
mod name;
mod resources;
mod source;
mod store;
mod watch;

pub use backoff::Backoff;
pub use connect::{ConnectError, chain, connect};
pub use daemon_set::{DaemonSetName, RemoveError, is_going, remove};
pub use name::ObjectName;
pub use resources::{RESOURCES, Resource, built_in};
pub use source::ClusterSource;
pub use store::{Item, Store};
pub use watch::{Heard, News, What, follow};
