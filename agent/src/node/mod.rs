//! The node core: brings the pods that the mesh wants captured into the mesh, and keeps them there.
//!
//! One task owns the kernel side and the workers ([`supervisor`]); everybody else asks it through a mailbox.
//! Nothing in here touches a connection.

mod admission;
mod audit;
mod authority;
mod certificates;
mod certifier;
mod collect;
mod direct;
mod dump;
mod findings;
mod handover;
mod health;
mod introspect;
mod leave;
mod ledger;
mod lifecycle;
mod netns;
mod pending;
mod plain_rules;
mod pod;
mod refused;
mod revisit;
mod runtime;
mod sandboxes;
mod spawn;
mod standby;
mod standing;
mod state_dir;
mod strangers;
mod supervisor;
mod troubles;

pub use lifecycle::{run, uninstall, uninstall_everywhere};
