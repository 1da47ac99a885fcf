//! What stands of a cluster.

use std::fmt;

use anyhow::Result;
use serde_json::Value;

use super::{Cluster, control_plane};

/// What should run on a machine, by its kind.
const OF_CONTROL_PLANE: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
const OF_NODE: [&str; 3] = ["containerd", "kubelet", "kube-proxy"];

/// A line for each machine; none where no cluster was brought up.
pub struct Status(Vec<Line>);

struct Line {
    machine: String,
    on: bool,
    running: Vec<&'static str>,
    ended: Vec<&'static str>,
    /// What the API server says of the node; none for the control plane, or where nobody answers.
    ready: Option<bool>,
}

impl Status {
    pub(super) fn of(cluster: &Cluster) -> Result<Self> {
        let mut machines = cluster.machines()?;
        machines.reverse();
        let answers = machines.iter().any(|machine| machine.name() == control_plane::NAME && machine.is_on());
        let get = || cluster.kubectl(&["get", "nodes", "--output=json", "--request-timeout=5s"], "").ok();
        let nodes: Option<Value> =
            answers.then(get).flatten().and_then(|said| serde_json::from_str(&said).ok());
        let line = |machine: &super::Machine| {
            let name = machine.name();
            let should: &[&str] = if name == control_plane::NAME { &OF_CONTROL_PLANE } else { &OF_NODE };
            let runs = machine.running()?;
            let (running, ended) = should.iter().partition(|program| runs.contains(**program));
            let ready = nodes.as_ref().and_then(|nodes| {
                let node = nodes["items"].as_array()?.iter().find(|node| node["metadata"]["name"] == name)?;
                Some(control_plane::is_ready(node))
            });
            Ok(Line { machine: name.to_owned(), on: machine.is_on(), running, ended, ready })
        };
        machines.iter().map(line).collect::<Result<_>>().map(Self)
    }

    /// Everything runs, and every node is ready.
    pub fn is_well(&self) -> bool {
        let well = |line: &Line| {
            line.on
                && line.ended.is_empty()
                && (line.machine == control_plane::NAME || line.ready == Some(true))
        };
        !self.0.is_empty() && self.0.iter().all(well)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "no cluster stands");
        }
        for (number, line) in self.0.iter().enumerate() {
            let new_line = if number > 0 { "\n" } else { "" };
            let on = if line.on { "on " } else { "off" };
            write!(f, "{new_line}{:6} {on}", line.machine)?;
            match line.ready {
                Some(true) => write!(f, "  ready    ")?,
                Some(false) => write!(f, "  not ready")?,
                None => write!(f, "           ")?,
            }
            if !line.running.is_empty() {
                write!(f, "  {}", line.running.join(", "))?;
            }
            if line.on && !line.ended.is_empty() {
                write!(f, "  (ended: {})", line.ended.join(", "))?;
            }
        }
        Ok(())
    }
}
