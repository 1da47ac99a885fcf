//! Kubernetes objects from the API server: the same mesh as from a directory of manifests.
//!
//! [`resources`] says what is read, [`watch`] keeps one resource current ([`lines`] and [`value`] have one object's nonsense be that
//! object's alone, [`progress`] tells a watch that stands still), [`store`] holds what is known of all, and
//! [`source`] has a mesh made of it. Only the fields that the mesh reads are kept ([`Object`](crate::manifest::Object)); what
//! they mean `manifest` knows. While the API server is away everything stays as it was.
//! Others follow resources of their own ([`follow`]): the certificate authority its pods and its Secret, its clients the roots.
//! [`daemon_set`] is apart: how an agent hears that it is to leave its node for good; and [`rollout`]: how one that is to take over
//! hears whether that came out well elsewhere.
//!
//! What is written there is little: [`status`] of policies that are wrong, [`events`] of pods, and [`taint`] of this node.
//! Nothing in here knows what the mesh is used for.

#![forbid(unsafe_code)]

mod backoff;
mod condition;
mod connect;
mod daemon_set;
mod events;
mod lines;
mod name;
mod options;
mod progress;
mod resources;
mod rollout;
mod source;
mod status;
mod store;
mod taint;
mod value;
mod watch;

pub use backoff::Backoff;
pub use connect::{ConnectError, chain, connect};
pub use daemon_set::{RemoveError, is_going, remove};
pub use events::{Happening, PodEvent, PodEvents};
pub use name::ObjectName;
pub use options::ClusterOptions;
pub use progress::{failing_since, stands_still};
pub use resources::{RESOURCES, Resource, built_in};
pub use rollout::{Others, Rollout};
pub use source::{ClusterSource, Writes};
pub use store::{Item, Store};
pub use value::{Unreadable, read_list};
pub use watch::{Heard, News, What, follow};
