//! A contestant with what all of them get alike: a client, a server, and the same servers in it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use pillion_tests::{Bed, Node, Pod, apps};

use super::contestant::Contestant;
use super::load::{ECHO, Generator};

pub struct Stage {
    pub contestant: Box<dyn Contestant>,
    pub pair: Pair,
    /// The cgroup of the bed it stands in.
    pub bed: PathBuf,
}

/// A client and a server that are in a contestant's mesh, on its two nodes.
pub struct Pair {
    pub client: Pod,
    pub server: Pod,
}

/// A pod may have as many connections to one address as there are ports; Linux gives out 28,232 by default.
const PORTS: (&str, &str) = ("net/ipv4/ip_local_port_range", "1024 65535");

impl Stage {
    pub fn set(bed: &Bed, contestant: Box<dyn Contestant>, generator: &Generator) -> Result<Self> {
        let pair = Pair::new(&*contestant, "", generator)?;
        Ok(Self { contestant, pair, bed: bed.cgroup().to_owned() })
    }

    pub fn name(&self) -> &str {
        self.contestant.name()
    }
}

impl Pair {
    /// `role` tells its pods from other pairs'.
    pub fn new(contestant: &dyn Contestant, role: &str, generator: &Generator) -> Result<Self> {
        let name = contestant.name();
        let pod = |node: &Node, end: &str| {
            let pod = node.pod(&format!("{role}{end}-{name}")).sysctl(PORTS.0, PORTS.1);
            pod.create()
        };
        let [near, far] = contestant.nodes();
        let (client, server) = (pod(near, "client")?, pod(far, "server")?);
        apps::nginx(&server, 8080)?;
        apps::nginx_http2(&server, 8081)?;
        generator.serve(&server)?.wait_listening(ECHO)?;
        contestant.enter_pair(&client, &server).with_context(|| format!("{name} cannot be set up"))?;
        Ok(Self { client, server })
    }

    /// The cgroups of both apps; a sidecar's is below its pod's.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        vec![self.client.cgroup(), self.server.cgroup()]
    }
}
