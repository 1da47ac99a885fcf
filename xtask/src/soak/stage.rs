//! Where the soak takes place.

use anyhow::Result;
use pillion_tests::{Agent, AgentOptions, Bed, Pod, apps};

pub struct Stage {
    /// One a node.
    pub agents: [Agent; 2],
    /// HTTP clients, on "north".
    pub browser: Pod,
    /// Redis (6379) and iperf3 (5201), on "north".
    pub cache: Pod,
    /// An HTTP client on "north" whose label comes and goes.
    pub visitor: Pod,
    /// nginx (80), on "south".
    pub web: Pod,
    /// Redis's and iperf3's clients, on "south".
    pub batch: Pod,
    /// Last: it takes everything else with it.
    _bed: Bed,
}

impl Stage {
    /// Builds it, all pods in the mesh, with certificates that live for so many seconds.
    pub fn set(cert_lifetime: u64) -> Result<Self> {
        let bed = Bed::new("soak")?;
        let (north, south) = (bed.node("north")?, bed.node("south")?);
        let on_north = |name| north.pod(name).captured().create();
        let on_south = |name| south.pod(name).captured().create();
        let (browser, cache, visitor) = (on_north("browser")?, on_north("cache")?, on_north("visitor")?);
        let (web, batch) = (on_south("web")?, on_south("batch")?);
        apps::nginx(&web, 80)?;
        apps::redis(&cache, 6379)?;
        apps::iperf3(&cache, 5201)?;
        let options = AgentOptions::default().arg(format!("--cert-lifetime={cert_lifetime}s"));
        let agents = [north.start_agent(&options)?, south.start_agent(&options)?];
        let stage = Self { agents, browser, cache, visitor, web, batch, _bed: bed };
        for (agent, pods) in stage
            .agents
            .iter()
            .zip([&[&stage.browser, &stage.cache, &stage.visitor][..], &[&stage.web, &stage.batch]])
        {
            pods.iter().try_for_each(|pod| agent.wait_serving(pod))?;
        }
        Ok(stage)
    }

    /// How many certificates were renewed so far.
    pub fn renewals(&self) -> usize {
        self.agents.iter().map(|agent| agent.log().matches("certificate renewed").count()).sum()
    }
}
