//! An agent that perf can read: frame pointers for the call graphs, line tables for the names of what was inlined.

use std::path::PathBuf;

use anyhow::Result;

use crate::workspace;

/// Builds it into a target directory of its own, so that the usual build stays as it is.
pub fn agent() -> Result<PathBuf> {
    let target = workspace::target();
    workspace::build(
        workspace::cargo()
            .args(["build", "--release", "-p", "pillion-agent", "--target-dir"])
            .arg(target.join("profile"))
            .env("RUSTFLAGS", "-Cforce-frame-pointers=yes")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only")
            .env("PATH", workspace::path_with_bpf_linker()?),
    )
}
