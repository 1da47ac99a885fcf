//! Who is compared: one file for each kind, behind one small trait. None of them knows what is measured.

mod envoy;
mod envoy_config;
mod external;
mod none;
mod pillion;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use pillion_tests::{AgentOptions, Bed, Node, Pod};

use super::baseline;

pub use external::External;
pub use none::Plain;

/// A mesh, or none, on nodes of its own: no other contestant's hooks are on them.
pub trait Contestant {
    /// As in `results.json`.
    fn name(&self) -> &str;

    /// Where its clients and servers are; the same node twice when they share one.
    fn nodes(&self) -> [&Node; 2];

    /// Brings a pod of these nodes into the mesh; returns once the mesh serves it.
    fn enter(&self, pod: &Pod) -> Result<()>;

    /// Brings a client and a server into the mesh; returns once connections between them take its way.
    fn enter_pair(&self, client: &Pod, server: &Pod) -> Result<()> {
        self.enter(client)?;
        self.enter(server)?;
        self.prove(client, server)
    }

    /// Waits until a client that has entered reaches a server that has entered, on port 8080, through the mesh.
    ///
    /// # Errors
    /// When it does not, or when the mesh does not do what it is compared for: mutual TLS between the two, or connections
    /// that the kernel attests.
    fn prove(&self, client: &Pod, server: &Pod) -> Result<()>;

    /// The cgroups in which the mesh's programs run: what they use is the mesh's cost.
    fn cgroups(&self) -> Vec<PathBuf>;
}

/// What contestants are made from.
#[derive(Default)]
pub struct Settings {
    /// For Pillion's agents.
    pub agent: AgentOptions,
    /// The Envoy to use, instead of the one that is found.
    pub envoy: Option<PathBuf>,
    pub external: Vec<External>,
}

/// The contestants that come with the benchmark, in the order of a report.
pub const NAMES: [&str; 7] = [
    "none",
    "none-same-node",
    "pillion",
    "pillion-same-node",
    "pillion-direct",
    "envoy-sidecar",
    "envoy-sidecar-c1",
];

/// A contestant with its nodes and without pods, as its name says.
pub fn stand(bed: &Bed, name: &str, settings: &Settings) -> Result<Box<dyn Contestant>> {
    let client = bed.node(&format!("{name}-a"))?;
    let server =
        if baseline::is_on_one_node(name) { client.clone() } else { bed.node(&format!("{name}-b"))? };
    stand_on(bed, name, settings, [client, server])
}

/// A contestant on one node only, whatever its name says: what a node's mesh holds is told there.
pub fn stand_on_one_node(bed: &Bed, name: &str, settings: &Settings) -> Result<Box<dyn Contestant>> {
    let node = bed.node(&format!("{name}-a"))?;
    stand_on(bed, name, settings, [node.clone(), node])
}

fn stand_on(bed: &Bed, name: &str, settings: &Settings, nodes: [Node; 2]) -> Result<Box<dyn Contestant>> {
    Ok(match name {
        "none" | "none-same-node" => Box::new(Plain::new(name, nodes)),
        "pillion" | "pillion-same-node" | "pillion-direct" => {
            Box::new(pillion::Pillion::start(name, nodes, &settings.agent)?)
        }
        "envoy-sidecar" => Box::new(envoy::Sidecars::new(bed, name, nodes, settings.envoy.as_deref(), 2)?),
        "envoy-sidecar-c1" => Box::new(envoy::Sidecars::new(bed, name, nodes, settings.envoy.as_deref(), 1)?),
        _ => {
            let external = settings.external.iter().find(|external| external.name == name);
            Box::new(external.with_context(|| format!("no contestant is called {name}"))?.on(nodes))
        }
    })
}

/// One request from `client` to `server`, by a program in the client's pod.
fn request(client: &Pod, server: &Pod) -> Result<()> {
    let url = format!("http://{}:8080/hello", server.ip4());
    let said = client.command("curl").args(["-sS", "-m10", &url]).run()?;
    ensure!(said == "hello\n", "{url} answered {said:?}");
    Ok(())
}
