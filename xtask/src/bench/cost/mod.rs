//! What traffic and pods cost: CPU time and memory, told apart by cgroups.

pub mod cpu;
pub mod memory;
mod outsiders;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// A file of a cgroup.
fn read(cgroup: &Path, file: &str) -> Result<String> {
    let path = cgroup.join(file);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}
