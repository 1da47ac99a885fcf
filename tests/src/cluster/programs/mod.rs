//! The programs of a cluster: built once, each in a directory of its name and version below `target/kube`, or given.

mod debian;
mod kubernetes;
mod released;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::once;

pub use debian::Root;

/// What has to be there for a cluster.
const NEEDED: [&str; 16] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "pause",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "bridge",
    "host-local",
    "loopback",
    "portmap",
];

/// Where the programs are.
#[derive(Clone)]
pub struct Programs {
    /// What somebody has built, in the order in which it is searched.
    dirs: Vec<PathBuf>,
    /// Debian's packages: what pods run, and `nft` for the nodes.
    pub debian: Root,
}

impl Programs {
    /// Builds what is not there yet, which takes minutes, and says so.
    pub fn build() -> Result<Self> {
        // First: runc is linked with Debian's libseccomp.
        let debian = debian::unpacked()?;
        let mut dirs = vec![kubernetes::built()?];
        dirs.extend(released::built(&debian)?);
        Self::check(dirs, debian)
    }

    /// Takes programs that somebody has built; Debian's packages are unpacked still, where that was not done before.
    pub fn given(dir: &Path) -> Result<Self> {
        let dir = dir.canonicalize().with_context(|| format!("there is no directory {}", dir.display()))?;
        Self::check(vec![dir], debian::unpacked()?)
    }

    fn check(dirs: Vec<PathBuf>, debian: Root) -> Result<Self> {
        let programs = Self { dirs, debian };
        let missing: Vec<&str> = NEEDED.into_iter().filter(|name| programs.path(name).is_err()).collect();
        ensure!(
            missing.is_empty(),
            "{} lacks {}: `cargo xtask cluster build` makes them all in target/kube",
            programs.shown(),
            missing.join(", ")
        );
        Ok(programs)
    }

    /// The path of one of them.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let files = self.dirs.iter().map(|dir| dir.join(name));
        files
            .into_iter()
            .find(|file| file.is_file())
            .with_context(|| format!("{} lacks {name}", self.shown()))
    }

    /// The directory of one of them.
    pub(super) fn dir_of(&self, name: &str) -> Result<PathBuf> {
        Ok(self.path(name)?.parent().context("a program is in a directory")?.to_owned())
    }

    /// A `PATH` that finds them all, and this machine's own programs after them.
    pub(super) fn search_path(&self) -> Result<OsString> {
        let machine = env::var_os("PATH").unwrap_or_default();
        let dirs = self.dirs.iter().cloned().chain([self.debian.bin()]);
        env::join_paths(dirs.chain(env::split_paths(&machine)))
            .context("a directory's name has a colon in it")
    }

    fn shown(&self) -> String {
        self.dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// A directory below `target/kube`, made once.
fn directory(name: &str, what: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    once::directory("kube", name, what, make)
}
