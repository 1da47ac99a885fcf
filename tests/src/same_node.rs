//! What tests of the direct path begin with: one node with an agent, and two captured pods.

use anyhow::Result;

use crate::agent::{Agent, AgentOptions};
use crate::bed::Bed;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::pod::Pod;
use crate::requirements;

/// A client and a server on one node, both in the mesh.
pub struct SameNode {
    pub client: Pod,
    pub server: Pod,
    pub agent: Agent,
    pub bed: Bed,
}

impl SameNode {
    /// With access logs, and everything else as it is by default.
    pub fn new(name: &str) -> Result<Self> {
        Self::with(name, &AgentOptions::default().access_log(), &[])
    }

    /// `manifests` are there before the agent is, so that they are in force as soon as it serves.
    pub fn with(name: &str, options: &AgentOptions, manifests: &[&str]) -> Result<Self> {
        requirements::ensure(requirements::APPS)?;
        let bed = Bed::new(name)?;
        for (number, manifest) in manifests.iter().enumerate() {
            bed.write_manifest(&format!("given-{number}.yaml"), manifest)?;
        }
        let node = bed.node("n1")?;
        let client = node.pod("client").captured().create()?;
        let server = node.pod("server").captured().create()?;
        let same_node = Self { agent: node.start_agent(options)?, client, server, bed };
        same_node.settle()?;
        Ok(same_node)
    }

    /// Waits until the agent serves both pods.
    pub fn settle(&self) -> Result<()> {
        self.agent.wait_serving(&self.client)?;
        self.agent.wait_serving(&self.server)
    }

    pub fn node(&self) -> &Node {
        self.agent.node()
    }

    /// Another pod on the node, in the mesh.
    pub fn captured(&self, name: &str) -> Result<Pod> {
        let pod = self.node().pod(name).captured().create()?;
        self.agent.wait_serving(&pod)?;
        Ok(pod)
    }

    /// Another pod on the node, not in the mesh.
    pub fn outsider(&self, name: &str) -> Result<Pod> {
        let pod = self.node().pod(name).create()?;
        self.agent.wait_known(&pod)?;
        Ok(pod)
    }
}

/// How connections were secured, in `connection_security_policy`.
pub mod security {
    pub const DIRECT: &str = "kernel_attested";
    pub const MUTUAL_TLS: &str = "mutual_tls";
    pub const NONE: &str = "none";
}

impl Metrics {
    /// How many connections from `source` to `destination` were opened under this security, as `reporter` counts.
    pub fn opened(&self, reporter: &str, source: &Pod, destination: &Pod, security: &str) -> f64 {
        let labels = [
            ("reporter", reporter),
            ("source_principal", &source.identity()),
            ("destination_principal", &destination.identity()),
            ("connection_security_policy", security),
        ];
        self.sum("istio_tcp_connections_opened_total", &labels)
    }
}
