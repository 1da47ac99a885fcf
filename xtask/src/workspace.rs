//! Where things are, and cargo.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The workspace's packages that are built for this machine: the eBPF programs are the agent's build script's.
pub const HOST_PACKAGES: [&str; 3] = ["--workspace", "--exclude", "pillion-ebpf"];

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs this.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    cargo.current_dir(root());
    cargo
}

/// A `PATH` for builds in another target directory: the usual one has a bpf-linker, which takes minutes to build.
pub fn path_with_bpf_linker() -> Result<OsString> {
    let own = target().join("bpf-tools").join("bin");
    let path = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(env::split_paths(&path).chain([own]))?)
}

/// Runs a command to its end, with this terminal.
pub fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let status = command.status().with_context(|| format!("cannot run {}", program.display()))?;
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    ensure!(status.success(), "`{} {}` ended with {status}", file_name(&program), args.join(" "));
    Ok(())
}

/// Runs a `cargo build` and gives the path of the program that it has built.
pub fn build(command: &mut Command) -> Result<PathBuf> {
    let output = command
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    ensure!(output.status.success(), "`cargo {}` ended with {}", args.join(" "), output.status);
    let messages = String::from_utf8(output.stdout)?;
    let executable = |line| Some(serde_json::from_str::<Value>(line).ok()?["executable"].as_str()?.into());
    messages.lines().find_map(executable).context("cargo named no executable")
}

fn file_name(program: &std::ffi::OsStr) -> String {
    Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
}
