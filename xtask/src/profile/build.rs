//! An agent that perf can read: frame pointers for the call graphs, line tables for the names of what was inlined.

use std::env;
use std::ffi::OsString;
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
            .env("PATH", with_bpf_linker()?),
    )
}

/// The usual build has a bpf-linker, which takes minutes to build.
fn with_bpf_linker() -> Result<OsString> {
    let own = workspace::target().join("bpf-tools").join("bin");
    let path = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(env::split_paths(&path).chain([own]))?)
}
