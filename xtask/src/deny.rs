//! Licences, sources and advisories of all dependencies, by cargo-deny.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::{cargo, root, run, target};

/// Known to build with the pinned toolchain.
const VERSION: &str = "~0.20";

/// Checks what `deny.toml` says. Where the advisory database cannot be fetched the rest is checked, and the note
/// says what is missing.
pub fn check() -> Result<Option<String>> {
    let deny = program()?;
    let deny = || {
        let mut command = Command::new(&deny);
        command.current_dir(root()).arg("--log-level=error");
        command
    };
    let fetched = deny().args(["fetch", "db"]).output().context("cannot run cargo-deny")?;
    let checks: &[&str] = match fetched.status.success() {
        true => &["advisories", "licenses", "bans", "sources"],
        false => &["licenses", "bans", "sources"],
    };
    run(deny().arg("check").args(checks))?;
    let missing = "NOT checked for advisories: the advisory database cannot be fetched from here";
    Ok((!fetched.status.success()).then(|| missing.to_owned()))
}

/// cargo-deny: our own copy below the target directory, made when it is first needed.
fn program() -> Result<PathBuf> {
    let tools = target().join("tools");
    let program = tools.join("bin/cargo-deny");
    if !program.exists() {
        println!("building cargo-deny into {} (minutes, once)", tools.display());
        run(cargo().args(["install", "cargo-deny", "--locked", "--version", VERSION, "--root"]).arg(&tools))?;
    }
    Ok(program)
}
