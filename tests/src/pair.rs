//! What most tests begin with: two nodes with an agent each, and a captured pod on either.

use anyhow::Result;

use crate::agent::{Agent, AgentOptions};
use crate::bed::Bed;
use crate::pod::Pod;
use crate::requirements;

/// A client on one node, a server on the other, both in the mesh.
pub struct Pair {
    pub client: Pod,
    pub server: Pod,
    /// The client's node's agent.
    pub near: Agent,
    /// The server's node's agent.
    pub far: Agent,
    pub bed: Bed,
}

impl Pair {
    /// With access logs, and everything else as it is by default.
    pub fn new(name: &str) -> Result<Self> {
        Self::with(name, &AgentOptions::default().access_log())
    }

    /// Returns once both agents serve their pod and know the other.
    pub fn with(name: &str, options: &AgentOptions) -> Result<Self> {
        requirements::ensure(requirements::APPS)?;
        let bed = Bed::new(name)?;
        let (n1, n2) = (bed.node("n1")?, bed.node("n2")?);
        let client = n1.pod("client").captured().create()?;
        let server = n2.pod("server").captured().create()?;
        let pair =
            Self { near: n1.start_agent(options)?, far: n2.start_agent(options)?, client, server, bed };
        pair.settle()?;
        Ok(pair)
    }

    /// Waits until both agents serve their pod and know the other.
    pub fn settle(&self) -> Result<()> {
        self.near.wait_serving(&self.client)?;
        self.near.wait_known(&self.server)?;
        self.far.wait_serving(&self.server)?;
        self.far.wait_known(&self.client)
    }
}
