//! The agent as a static program, the same wherever it is built.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pillion_oci::Architecture;

use super::compiler::Compiler;
use super::{Profile, triple};
use crate::workspace;

/// Rust's own linker, and the musl that it brings: no linker of the machine's. It writes relocations in few bytes, and
/// functions that are the same once, where nobody asks for their addresses.
const LINKER: [&str; 4] = [
    "-Clinker=rust-lld",
    "-Clink-self-contained=yes",
    "-Clink-arg=--pack-dyn-relocs=relr",
    "-Clink-arg=--icf=safe",
];

/// What jemalloc is told. A pod is a thread: by default each would keep 300 KiB for itself, and give back late
/// (docs/image.md has the numbers). `_RJEM_MALLOC_CONF` of a running agent's environment goes before it.
const ALLOCATOR: &str =
    "narenas:8,lg_tcache_max:12,tcache_nslots_small_max:20,dirty_decay_ms:1000,muzzy_decay_ms:0";

/// Sources, and where cargo puts what it builds of them.
pub struct Checkout {
    pub root: PathBuf,
    pub target: PathBuf,
}

impl Checkout {
    pub fn here() -> Self {
        Self { root: workspace::root(), target: workspace::target() }
    }
}

/// Builds it, as far as it is not built already.
pub fn build(
    checkout: &Checkout,
    compiler: &Compiler,
    architecture: Architecture,
    profile: Profile,
) -> Result<PathBuf> {
    let (rust, triple) = (Rust::ask()?, triple(architecture));
    rust.ensure_target(triple)?;
    let mut cargo = workspace::cargo();
    cargo
        .current_dir(&checkout.root)
        .args(["build", "--locked", "-p", "pillion-agent", "--bin", "pillion", "--target", triple])
        .arg("--target-dir")
        .arg(&checkout.target)
        .env("PATH", workspace::path_with_bpf_linker()?)
        // They would replace ours.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    let flags = LINKER.map(str::to_owned).into_iter().chain(rust.hide_paths(checkout));
    let flags: Vec<String> = flags.collect();
    config(&mut cargo, &format!("target.{triple}.rustflags={}", serde_json::to_string(&flags)?));
    match profile {
        Profile::Release => {
            cargo.arg("--release");
            config(&mut cargo, "profile.release.strip=true");
            // Smaller by a tenth; what it takes longer to build is not waited for every day.
            config(&mut cargo, "profile.release.codegen-units=1");
        }
        Profile::Dev => {
            config(&mut cargo, "profile.dev.debug=false");
            config(&mut cargo, "profile.dev.strip=true");
        }
    }
    cargo.env("JEMALLOC_SYS_WITH_MALLOC_CONF", ALLOCATOR);
    if architecture == Architecture::Aarch64 {
        // jemalloc is built for one size of pages, and runs where they are smaller. Kernels have 4, 16 or 64 KiB.
        cargo.env("AARCH64_UNKNOWN_LINUX_MUSL_JEMALLOC_SYS_WITH_LG_PAGE", "16");
    }
    compiler.tell(&mut cargo, architecture);
    workspace::build(&mut cargo)
}

fn config(cargo: &mut Command, value: &str) {
    cargo.args(["--config", value]);
}

/// The toolchain of this workspace.
struct Rust {
    sysroot: PathBuf,
    commit: String,
}

impl Rust {
    fn ask() -> Result<Self> {
        let about = rustc(&["-vV"])?;
        let commit = about.lines().find_map(|line| line.strip_prefix("commit-hash: "));
        let commit = commit.context("rustc -vV tells no commit")?.to_owned();
        Ok(Self { sysroot: rustc(&["--print", "sysroot"])?.trim().into(), commit })
    }

    fn ensure_target(&self, triple: &str) -> Result<()> {
        if self.sysroot.join("lib/rustlib").join(triple).join("lib").is_dir() {
            return Ok(());
        }
        println!("Rust's target {triple} is missing: rustup target add {triple}");
        let mut add = Command::new("rustup");
        workspace::run(add.args(["target", "add", triple]).current_dir(workspace::root()))
            .with_context(|| format!("no {triple}: install it by `rustup target add {triple}`"))
    }

    /// Flags by which no path of this machine gets into the program, where panics and logs tell of sources.
    fn hide_paths(&self, checkout: &Checkout) -> Vec<String> {
        let library = self.sysroot.join("lib/rustlib/src/rust");
        let pairs = [
            (checkout.root.clone(), "/pillion".to_owned()),
            // Also where it is not below the sources: what build scripts generate is there.
            (checkout.target.clone(), "/pillion/target".to_owned()),
            (cargo_home(), "/cargo".to_owned()),
            // As it is called where rust-src is not installed.
            (library, format!("/rustc/{}", self.commit)),
        ];
        pairs.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect()
    }
}

fn rustc(args: &[&str]) -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(args).current_dir(workspace::root()).output();
    let output = output.context("cannot run rustc")?;
    ensure!(output.status.success(), "`rustc {}` ended with {}", args.join(" "), output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn cargo_home() -> PathBuf {
    let home = || Path::new(&env::var_os("HOME").unwrap_or_default()).join(".cargo");
    env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}
