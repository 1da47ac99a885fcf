//! What is written down of a cluster that was brought up.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

pub(super) struct Record {
    pub nodes: u8,
    /// Where programs that were given are; those of `target/kube` otherwise.
    pub given: Option<PathBuf>,
}

/// In the cluster's directory.
pub(super) const FILE: &str = "cluster.json";

impl Record {
    pub(super) fn is_there(state: &Path) -> bool {
        state.join(FILE).exists()
    }

    pub(super) fn write(&self, state: &Path) -> Result<()> {
        let record = json!({"nodes": self.nodes, "given": self.given});
        fs::write(state.join(FILE), record.to_string()).context("cannot write the cluster's record")
    }

    pub(super) fn read(state: &Path) -> Result<Self> {
        let none = format!("no cluster stands in {}: `cargo xtask cluster up` makes one", state.display());
        ensure!(Self::is_there(state), none);
        let text = fs::read_to_string(state.join(FILE)).context("cannot read the cluster's record")?;
        let broken = || {
            format!("{} is broken: remove it, then `cargo xtask cluster down`", state.join(FILE).display())
        };
        let record: Value = serde_json::from_str(&text).with_context(broken)?;
        let nodes = record["nodes"].as_u64().and_then(|nodes| nodes.try_into().ok()).with_context(broken)?;
        Ok(Self { nodes, given: record["given"].as_str().map(PathBuf::from) })
    }
}
