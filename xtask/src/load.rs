//! The load generator's program.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Result;

use crate::workspace;

/// `pillion-load`'s path; built once.
pub fn binary() -> Result<PathBuf> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || workspace::build(workspace::cargo().args(["build", "--release", "-p", "pillion-load"]));
    let built = BINARY.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}
