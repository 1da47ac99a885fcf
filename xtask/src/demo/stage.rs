//! What the demo plays on: two nodes, a client and a server on each, real applications, two agents.

use anyhow::{Context, Result};
use pillion_tests::apps::{self, Dropbear};
use pillion_tests::{Agent, AgentOptions, Bed, Pod};
use serde_json::Value;

/// The stage as every check finds it. Checks bring pods into the mesh and take them out as they need it; none
/// restarts a pod's programs.
pub struct Stage {
    pub north: Agent,
    pub south: Agent,
    /// A client, on the node "north".
    pub alice: Pod,
    /// Redis (6379) and an SSH server (22), on "north".
    pub store: Pod,
    /// A client, on the node "south".
    pub bob: Pod,
    /// nginx (80), on "south".
    pub web: Pod,
    pub ssh: Dropbear,
    /// Last: it takes everything else with it.
    pub bed: Bed,
}

impl Stage {
    /// Builds it; nothing is in the mesh yet.
    pub fn set() -> Result<Self> {
        let bed = Bed::new("demo")?;
        let (north, south) = (bed.node("north")?, bed.node("south")?);
        let (alice, store) = (north.pod("alice").create()?, north.pod("store").create()?);
        let (bob, web) = (south.pod("bob").create()?, south.pod("web").create()?);
        apps::nginx(&web, 80)?;
        apps::redis(&store, 6379)?;
        let ssh = apps::dropbear(&store, 22)?;
        let options = AgentOptions::default().access_log();
        let (north, south) = (north.start_agent(&options)?, south.start_agent(&options)?);
        Ok(Self { north, south, alice, store, bob, web, ssh, bed })
    }

    pub fn agents(&self) -> [&Agent; 2] {
        [&self.north, &self.south]
    }

    pub fn pods(&self) -> [&Pod; 4] {
        [&self.alice, &self.store, &self.bob, &self.web]
    }

    /// The agent of the pod's node.
    pub fn agent_of(&self, pod: &Pod) -> &Agent {
        if pod.node().name() == self.north.node().name() { &self.north } else { &self.south }
    }

    /// Labels the pods, and waits until their workers serve and both agents know.
    pub fn join(&self, pods: &[&Pod]) -> Result<()> {
        pods.iter().try_for_each(|pod| pod.capture())?;
        pods.iter().try_for_each(|pod| self.agent_of(pod).wait_serving(pod))?;
        self.wait_known(pods, true)
    }

    /// Takes the label off the pods, and waits until nobody captures them.
    pub fn leave(&self, pods: &[&Pod]) -> Result<()> {
        pods.iter().try_for_each(|pod| pod.release())?;
        pods.iter().try_for_each(|pod| self.agent_of(pod).wait_released(pod))?;
        self.wait_known(pods, false)
    }

    fn wait_known(&self, pods: &[&Pod], captured: bool) -> Result<()> {
        let known = |dump: &Value| pods.iter().all(|pod| is_captured(dump, pod) == Some(captured));
        let names: Vec<&str> = pods.iter().map(|pod| pod.name()).collect();
        let what =
            format!("{} {}", names.join(", "), if captured { "in the mesh" } else { "out of the mesh" });
        self.agents().iter().try_for_each(|agent| agent.wait_config(&what, known).map(drop))
    }
}

/// What an agent's dump says of a pod.
fn is_captured(dump: &Value, pod: &Pod) -> Option<bool> {
    let workload = dump["workloads"].as_array()?.iter().find(|w| w["name"]["name"] == pod.name())?;
    workload["captured"].as_bool()
}

/// A text of the dump, which is a bug of the agent where it is missing.
pub fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("no {key} in {value}"))
}
