//! No mesh: plain TCP through the same bridges and wires.

use std::path::PathBuf;

use anyhow::Result;
use pillion_tests::{Node, Pod};

use super::{Contestant, request};

pub struct Plain {
    name: String,
    nodes: [Node; 2],
}

impl Plain {
    pub fn new(name: &str, nodes: [Node; 2]) -> Self {
        Self { name: name.to_owned(), nodes }
    }
}

impl Contestant for Plain {
    fn name(&self) -> &str {
        &self.name
    }

    fn nodes(&self) -> [&Node; 2] {
        self.nodes.each_ref()
    }

    fn enter(&self, _: &Pod) -> Result<()> {
        Ok(())
    }

    fn prove(&self, client: &Pod, server: &Pod) -> Result<()> {
        request(client, server)
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        vec![]
    }
}
