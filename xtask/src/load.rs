//! The load generator's program.

use std::path::PathBuf;

use anyhow::Result;

use crate::workspace;

/// Builds `pillion-load`; gives its path.
pub fn binary() -> Result<PathBuf> {
    workspace::build(workspace::cargo().args(["build", "--release", "-p", "pillion-load"]))
}
