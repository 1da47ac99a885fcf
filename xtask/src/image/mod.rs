//! `cargo xtask image`: Pillion's container image as an OCI archive, written without a container engine.
//!
//! The program is static and the same, byte for byte, wherever it is built: rustc, its linker and the C compiler are
//! pinned, and no path of the machine gets in.

mod compiler;
mod content;
mod licences;
mod program;
mod reproducible;
mod revision;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pillion_oci::Architecture;

use crate::workspace;
use program::Checkout;

#[derive(clap::Args)]
pub struct Args {
    /// Where the archive goes [default: target/image/pillion.tar, with the profile and the architecture in its name where
    /// they were asked for]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// For this architecture; again for another one [default: both]
    #[arg(long, value_enum, value_name = "ARCHITECTURE")]
    arch: Vec<Arch>,
    /// How the agent is built
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// What the image is called
    #[arg(long, value_name = "NAME", default_value_t = content::default_name(), value_parser = content::name)]
    tag: String,
    /// Write the image's files into this directory instead, for one architecture: what deploy/Dockerfile copies
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "check_reproducible"])]
    root: Option<PathBuf>,
    /// Build once more in a clone of the last commit, elsewhere and from nothing, and compare: minutes
    #[arg(long)]
    check_reproducible: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Arch {
    #[value(name = "x86-64", aliases = ["x86_64", "amd64"])]
    X86_64,
    #[value(name = "aarch64", alias = "arm64")]
    Aarch64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// As it is given to people
    Release,
    /// Quickly built, for tests
    Dev,
}

pub fn run(args: &Args) -> Result<()> {
    let architectures = architectures(&args.arch);
    let here = Checkout::here();
    if let Some(root) = &args.root {
        ensure!(architectures.len() == 1, "a directory is of one architecture: --root wants one --arch");
        return content::unpack(&here, architectures[0], args.profile, root);
    }
    let out = args.out.clone().unwrap_or_else(|| place(&architectures, args.profile));
    let archive = content::Archive { architectures: &architectures, profile: args.profile, name: &args.tag };
    let digest = archive.write(&here, &out)?;
    println!("{}  {digest}\n{}", args.tag, out.display());
    if args.check_reproducible {
        reproducible::check(&archive, &out)?;
        println!("a clone elsewhere gives the same archive, byte for byte");
    }
    Ok(())
}

/// The archive of the image for these architectures, under its usual name and at its usual place. What cargo has built
/// already is not built again.
pub fn archive(architectures: &[Architecture], profile: Profile) -> Result<PathBuf> {
    let (out, name) = (place(architectures, profile), content::default_name());
    content::Archive { architectures, profile, name: &name }.write(&Checkout::here(), &out)?;
    Ok(out)
}

/// The image as it is given to people, for this machine alone.
pub fn of_this_machine() -> Result<PathBuf> {
    archive(&[Architecture::here()], Profile::Release)
}

/// Both unless some are named; always in the same order.
fn architectures(named: &[Arch]) -> Vec<Architecture> {
    let all = [(Arch::X86_64, Architecture::X86_64), (Arch::Aarch64, Architecture::Aarch64)];
    all.into_iter().filter(|(arch, _)| named.is_empty() || named.contains(arch)).map(|(_, it)| it).collect()
}

/// Rust's name of the target. Its musl is linked statically.
fn triple(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => "x86_64-unknown-linux-musl",
        Architecture::Aarch64 => "aarch64-unknown-linux-musl",
    }
}

/// A name for each content, so that a test's image is never taken for the one that is given to people.
fn place(architectures: &[Architecture], profile: Profile) -> PathBuf {
    let mut name = "pillion".to_owned();
    if profile == Profile::Dev {
        name += "-dev";
    }
    if let [architecture] = architectures {
        name = format!("{name}-{}", architecture.go_name());
    }
    directory().join(format!("{name}.tar"))
}

/// Where images are made.
fn directory() -> PathBuf {
    workspace::target().join("image")
}

fn make_parent(file: &Path) -> Result<()> {
    let parent = file.parent().unwrap_or(file);
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_architectures_are_meant_when_none_is_named_and_each_is_there_once() {
        let both = [Architecture::X86_64, Architecture::Aarch64];
        assert_eq!(architectures(&[]), both);
        assert_eq!(architectures(&[Arch::Aarch64, Arch::X86_64, Arch::Aarch64]), both);
        assert_eq!(architectures(&[Arch::Aarch64]), [Architecture::Aarch64]);
    }

    #[test]
    fn what_is_in_an_archive_is_in_its_name() {
        let name = |architectures: &[Architecture], profile| {
            place(architectures, profile).file_name().unwrap().to_str().unwrap().to_owned()
        };
        let both = [Architecture::X86_64, Architecture::Aarch64];
        assert_eq!(name(&both, Profile::Release), "pillion.tar");
        assert_eq!(name(&both[1..], Profile::Release), "pillion-arm64.tar");
        assert_eq!(name(&both[..1], Profile::Dev), "pillion-dev-amd64.tar");
    }
}
