//! The test bed: real nodes, pods and agents on one Linux machine. The demo, the end-to-end tests, the soak
//! and the benchmarks all stand on it.
//!
//! A [`Bed`] has nodes ([`Node`]) and pods ([`Pod`]), which are network namespaces; a pod's programs
//! ([`Command`], [`Process`], [`apps`]) are ordinary processes in its network namespace and cgroup; an [`Agent`]
//! is a real `pillion` process, one per node. What stands is written as Kubernetes objects into a directory that
//! all agents watch, at every change.
//!
//! ```no_run
//! use pillion_tests::{AgentOptions, Bed, apps};
//! # fn main() -> anyhow::Result<()> {
//! let bed = Bed::new("hello")?;
//! let (n1, n2) = (bed.node("n1")?, bed.node("n2")?);
//! let client = n1.pod("client").captured().create()?;
//! let web = n2.pod("web").captured().create()?;
//! apps::nginx(&web, 80)?;
//! let (a1, a2) = (n1.start_agent(&AgentOptions::default())?, n2.start_agent(&AgentOptions::default())?);
//! a1.wait_serving(&client)?;
//! a2.wait_serving(&web)?;
//! let said = client.command("curl").args(["-s", &format!("http://{}/hello", web.ip4())]).run()?;
//! assert_eq!(said, "hello\n");
//! # Ok(()) }
//! ```
//!
//! Invariants:
//! - Everything belongs to one bed's [`Id`] by its name, so that it can be removed by that name alone: when the
//!   [`Bed`] is dropped, at a signal ([`interrupt`]), or by the next bed when the owner was killed ([`sweep()`]).
//! - The machine's own network namespace, links, sysctls and cgroups are never touched.
//! - Nothing here knows how the agent works: it has its command line, its ports, and what apps see.

#![deny(unsafe_code)]

pub mod agent;
mod api_server;
pub mod apps;
pub mod attack;
mod bed;
mod cgroup;
pub mod chart;
pub mod cluster;
pub mod cri;
mod ending;
mod go;
pub mod grpc;
mod http;
mod id;
pub mod interrupt;
mod ip;
mod manifest;
mod marker;
pub mod metrics;
mod node;
pub mod once;
mod pair;
pub mod pcap;
pub mod peers;
mod pod;
mod process;
mod record;
pub mod requirements;
mod sabotage;
mod same_node;
mod shared;
mod sweep;
mod sys;
pub mod wait;

pub use agent::{Agent, AgentOptions};
pub use api_server::ApiServer;
pub use bed::Bed;

pub use id::Id;
pub use manifest::Service;
pub use node::Node;
pub use pair::Pair;
pub use pod::{Pod, PodBuilder};
pub use process::{Command, Output, Process};
pub use record::Recording;
pub use sabotage::{FullMap, KernelObjects};
pub use same_node::{SameNode, security};
pub use sweep::{leftovers, sweep};
