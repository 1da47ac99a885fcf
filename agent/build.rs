//! Builds the eBPF programs with the toolchain of this very build, so that a plain `cargo build` is all it takes on
//! a machine with rustup.
//!
//! Stable Rust needs `RUSTC_BOOTSTRAP=1` for them (`-Z build-std=core`, inline assembly for BPF). So that nothing
//! else sees that variable, this program runs itself once more as a child that has it.

use anyhow::{Context as _, Result, ensure};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// 0.10 speaks LLVM 22, as the pinned rustc does. One version: what it links is in the image, the same everywhere.
const BPF_LINKER_VERSION: &str = "=0.10.4";

/// Set for the child, which does nothing but build the programs.
const CHILD: &str = "PILLION_BUILDS_EBPF";

fn main() -> Result<()> {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the agent has no parent directory")?;
    let toolchain = toolchain(workspace)?;
    if env::var_os(CHILD).is_some() {
        return build_programs(&workspace.join("ebpf"), &toolchain);
    }
    for path in ["agent/build.rs", "ebpf", "ebpf-common", "rust-toolchain.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", workspace.join(path).display());
    }
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    if env::var_os("AYA_BUILD_SKIP").is_some_and(|value| value == "1" || value == "true") {
        println!(
            "cargo:warning=AYA_BUILD_SKIP is set: the agent is built without its eBPF programs, to be checked only"
        );
        println!("cargo:rerun-if-env-changed=AYA_BUILD_SKIP");
        return Ok(fs::write(out_dir.join("pillion"), [])?);
    }
    ensure_rust_src(&toolchain)?;
    let linker = ensure_bpf_linker(&out_dir)?;

    let status = Command::new(env::current_exe()?)
        .env(CHILD, "1")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("PATH", path_with(&linker)?)
        // aya-build passes everything that cargo says on as warnings
        .env("CARGO_TERM_QUIET", "true")
        // the agent's profile is not made for bpf-linker, which links bitcode as a whole anyhow
        .env("CARGO_PROFILE_RELEASE_LTO", "false")
        // the programs' line information has no path of this machine: they are the same wherever they are built
        .env("CARGO_UNSTABLE_TRIM_PATHS", "true")
        .env("CARGO_PROFILE_RELEASE_TRIM_PATHS", "all")
        .status()?;
    ensure!(status.success(), "the eBPF programs did not build");
    Ok(())
}

fn build_programs(ebpf: &Path, toolchain: &str) -> Result<()> {
    let features: &[&str] = if env::var_os("CARGO_FEATURE_BPF_LOG").is_some() { &["log"] } else { &[] };
    let package = aya_build::Package {
        name: "pillion-ebpf",
        root_dir: ebpf.to_str().context("the path of the workspace is not UTF-8")?,
        features,
        ..Default::default()
    };
    // aya-build gives it a target directory of its own below OUT_DIR: the outer cargo holds the lock of its own.
    aya_build::build_ebpf([package], aya_build::Toolchain::Custom(toolchain))
}

/// The toolchain of this build: rustup's proxies tell its name; without them, what the workspace asks for.
fn toolchain(workspace: &Path) -> Result<String> {
    println!("cargo:rerun-if-env-changed=RUSTUP_TOOLCHAIN");
    if let Ok(name) = env::var("RUSTUP_TOOLCHAIN") {
        return Ok(name);
    }
    let file = fs::read_to_string(workspace.join("rust-toolchain.toml"))?;
    let channel = file
        .lines()
        .find_map(|line| line.strip_prefix("channel = "))
        .context("no channel in rust-toolchain.toml")?;
    Ok(channel.trim_matches('"').to_owned())
}

/// `core` for BPF is built from its source.
fn ensure_rust_src(toolchain: &str) -> Result<()> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output =
        Command::new(rustc).args(["--print", "sysroot"]).output().context("rustc --print sysroot")?;
    let sysroot = String::from_utf8(output.stdout)?;
    if Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir() {
        return Ok(());
    }
    println!("cargo:warning=rust-src is missing: rustup component add rust-src --toolchain {toolchain}");
    let status =
        Command::new("rustup").args(["component", "add", "rust-src", "--toolchain", toolchain]).status();
    ensure!(
        status.is_ok_and(|status| status.success()),
        "could not install rust-src; run: rustup component add rust-src --toolchain {toolchain}"
    );
    Ok(())
}

/// bpf-linker from PATH, or installed into the target directory: the machine stays as it is.
fn ensure_bpf_linker(out_dir: &Path) -> Result<PathBuf> {
    if let Some(linker) = on_path("bpf-linker") {
        return Ok(linker);
    }
    let tools = target_dir(out_dir)?.join("bpf-tools");
    let linker = tools.join("bin/bpf-linker");
    if linker.is_file() {
        return Ok(linker);
    }
    println!(
        "cargo:warning=bpf-linker is not on PATH: cargo install --locked bpf-linker@{BPF_LINKER_VERSION}, into {}",
        tools.display()
    );
    let mut install = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    install.args(["install", "--quiet", "--locked", "--version", BPF_LINKER_VERSION, "bpf-linker", "--root"]);
    install.arg(&tools);
    // A build script's environment describes the build of its own package; none of that holds for another.
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_this_build(&name.to_string_lossy())) {
        install.env_remove(name);
    }
    let build_dir = out_dir.join("bpf-linker");
    let status = install.env("CARGO_TARGET_DIR", &build_dir).status().context("cargo install bpf-linker")?;
    ensure!(
        status.success(),
        "could not install bpf-linker; run: cargo install --locked bpf-linker@{BPF_LINKER_VERSION}"
    );
    fs::remove_dir_all(build_dir)?;
    Ok(linker)
}

fn is_of_this_build(name: &str) -> bool {
    const PREFIXES: [&str; 4] = ["CARGO_CFG_", "CARGO_FEATURE_", "CARGO_PKG_", "DEP_"];
    const NAMES: [&str; 14] = [
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_MAKEFLAGS",
        "CARGO_MANIFEST_DIR",
        "DEBUG",
        "HOST",
        "MAKEFLAGS",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "TARGET",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name)
}

/// The target directory, wherever the user has put it: cargo tags it.
fn target_dir(out_dir: &Path) -> Result<&Path> {
    out_dir
        .ancestors()
        .find(|directory| directory.join("CACHEDIR.TAG").is_file())
        // <target>/<profile>/build/<package>/out
        .or_else(|| out_dir.ancestors().nth(4))
        .context("OUT_DIR lies in no target directory")
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

fn path_with(program: &Path) -> Result<OsString> {
    let first = program.parent().map(Path::to_path_buf);
    let rest = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(first.into_iter().chain(env::split_paths(&rest)))?)
}
