//! Objects that come from a real API server instead of a directory. Each test has an API server of its own.

mod away;
mod ca;
mod objects;
mod policies;
mod said;
mod taint;
mod write;

use anyhow::Result;
use pillion_tests::{Agent, AgentOptions, ApiServer, Bed};

/// An API server and an agent that watches it, on one node.
struct Standing {
    api: ApiServer,
    agent: Agent,
    _bed: Bed,
}

impl Standing {
    fn new(name: &str, flags: &[&str]) -> Result<Self> {
        Self::with(name, flags, AgentOptions::default())
    }

    fn with(name: &str, flags: &[&str], options: AgentOptions) -> Result<Self> {
        let bed = Bed::new(name)?;
        let node = bed.node("n1")?;
        let api = ApiServer::start(&bed, &node, flags)?;
        let agent = node.start_agent(&options.kube(&api.kubeconfig()))?;
        Ok(Self { api, agent, _bed: bed })
    }
}
