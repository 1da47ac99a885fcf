//! Pillion: an agent on each node, pods in the mesh by their label.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use pillion_tests::{Agent, AgentOptions, Node, Pod};
use serde_json::Value;

use super::{Contestant, request};

pub struct Pillion {
    name: String,
    nodes: [Node; 2],
    /// One for each node: one alone when the two are the same.
    agents: Vec<Agent>,
}

impl Pillion {
    pub fn start(name: &str, nodes: [Node; 2], options: &AgentOptions) -> Result<Self> {
        let agents = if nodes[0].name() == nodes[1].name() { &nodes[..1] } else { &nodes[..] };
        let agents = agents.iter().map(|node| node.start_agent(options)).collect::<Result<_>>()?;
        Ok(Self { name: name.to_owned(), nodes, agents })
    }

    fn agent_of(&self, pod: &Pod) -> Result<&Agent> {
        let agent = self.agents.iter().find(|agent| agent.node().name() == pod.node().name());
        agent.with_context(|| format!("{} is on no node of {}", pod.name(), self.name))
    }
}

impl Contestant for Pillion {
    fn name(&self) -> &str {
        &self.name
    }

    fn nodes(&self) -> [&Node; 2] {
        self.nodes.each_ref()
    }

    fn enter(&self, pod: &Pod) -> Result<()> {
        pod.capture()?;
        self.agent_of(pod)?.wait_serving(pod)
    }

    fn prove(&self, client: &Pod, server: &Pod) -> Result<()> {
        let known = |dump: &Value| [client, server].iter().all(|pod| is_captured(dump, pod));
        let what = format!("{} and {} in the mesh", client.name(), server.name());
        self.agents.iter().try_for_each(|agent| agent.wait_config(&what, known).map(drop))?;
        let labels = [("pod", server.name()), ("connection_security_policy", "mutual_tls")];
        let agent = self.agent_of(server)?;
        let opened = || Ok(agent.metrics()?.sum("istio_tcp_connections_opened_total", &labels));
        let before = opened()?;
        request(client, server)?;
        let opened: Result<f64> = opened();
        ensure!(
            opened? > before,
            "the request from {} to {} did not go through the mesh",
            client.name(),
            server.name()
        );
        Ok(())
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        self.agents.iter().map(|agent| agent.process().cgroup().to_owned()).collect()
    }
}

/// What an agent's dump says of a pod.
fn is_captured(dump: &Value, pod: &Pod) -> bool {
    let mut workloads = dump["workloads"].as_array().into_iter().flatten();
    workloads.any(|workload| workload["name"]["name"] == pod.name() && workload["captured"] == true)
}
