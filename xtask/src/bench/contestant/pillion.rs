//! Pillion: an agent on each node, pods in the mesh by their label. Between nodes by mutual TLS; on one node the same way,
//! or directly.

use std::path::PathBuf;

use anyhow::{Context, Result};
use pillion_tests::metrics::Metrics;
use pillion_tests::{Agent, AgentOptions, Node, Pod, security};
use serde_json::Value;

use super::{Contestant, request};

pub struct Pillion {
    name: String,
    nodes: [Node; 2],
    /// One for each node: one alone when the two are the same.
    agents: Vec<Agent>,
    /// How its connections have to be secured, as its metrics call it.
    security: &'static str,
}

impl Pillion {
    pub fn start(name: &str, nodes: [Node; 2], options: &AgentOptions) -> Result<Self> {
        let agents = if nodes[0].name() == nodes[1].name() { &nodes[..1] } else { &nodes[..] };
        let (options, security) = match name {
            "pillion-direct" => (options.clone(), security::DIRECT),
            // Pods that share a node talk directly unless told otherwise; between nodes it makes no difference.
            _ if agents.len() == 1 => (options.clone().arg("--direct=off"), security::MUTUAL_TLS),
            _ => (options.clone(), security::MUTUAL_TLS),
        };
        let agents = agents.iter().map(|node| node.start_agent(&options)).collect::<Result<_>>()?;
        Ok(Self { name: name.to_owned(), nodes, agents, security })
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
        let labels = [("pod", server.name()), ("connection_security_policy", self.security)];
        let agent = self.agent_of(server)?;
        let opened = |metrics: &Metrics| metrics.sum("istio_tcp_connections_opened_total", &labels);
        let before = opened(&agent.metrics()?);
        // The first connection between two pods asks whether the next may be direct.
        request(client, server)?;
        request(client, server)?;
        let what = format!("{} connections from {} to {}", self.security, client.name(), server.name());
        agent.wait_metrics(&what, |metrics| opened(metrics) > before).map(drop)
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
