//! Pillion's HBONE against other implementations of it, both directions: who can talk, who must not, and what
//! is said about it.

mod client;
mod envoy_client;
mod envoy_server;
mod few_streams;
mod forwarded;
mod handshakes;
mod hello;
mod istio;
mod refusals;
mod traffic;

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use pillion_tests::peers::credentials;
use pillion_tests::{Agent, AgentOptions, Bed, Pod, requirements};

use credentials::Authority;

/// Two pods on two nodes. One has an agent; the other's node has none, and stands for any other mesh proxy.
struct Stage {
    bed: Bed,
    agent: Agent,
    /// Captured, on the node with the agent.
    pod: Pod,
    foreign: Pod,
    authority: Authority,
}

impl Stage {
    /// `foreign_captured`: the manifests say that the foreign pod is in the mesh, so that it is dialled as such.
    fn new(name: &str, foreign_captured: bool) -> Result<Self> {
        requirements::ensure(&[requirements::APPS, &["openssl"]].concat())?;
        let bed = Bed::new(name)?;
        let (node, elsewhere) = (bed.node("n1")?, bed.node("n2")?);
        let pod = node.pod("ours").captured().create()?;
        let foreign = elsewhere.pod("foreign");
        let foreign = if foreign_captured { foreign.captured() } else { foreign }.create()?;
        let agent = node.start_agent(&AgentOptions::default().access_log())?;
        agent.wait_serving(&pod)?;
        agent.wait_known(&foreign)?;
        let authority = Authority::of_mesh(&bed)?;
        Ok(Self { bed, agent, pod, foreign, authority })
    }
}

/// The pod's addresses of both families, with this port.
fn addresses(pod: &Pod, port: u16) -> [SocketAddr; 2] {
    [IpAddr::from(pod.ip4()), pod.ip6().into()].map(|ip| SocketAddr::new(ip, port))
}
