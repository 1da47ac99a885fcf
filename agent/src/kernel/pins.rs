//! Where the kernel keeps what outlives the agent: `<bpffs>/pillion/<node>/v<layout>/`.

use super::KernelError;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use pillion_ebpf_common::LAYOUT_VERSION;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The directory of a product, so that several nodes (and others' pins) share one bpffs.
const PRODUCT: &str = "pillion";

/// The pins of one agent.
pub struct Pins {
    /// `<bpffs>/pillion/<node>`
    node: PathBuf,
    /// The directory of this build's layout, below it.
    current: PathBuf,
}

impl Pins {
    /// Makes the directory, and mounts a bpffs first where there is none and `mounts` says so.
    pub fn open(bpffs: &Path, node: &str, mounts: bool) -> Result<Self, KernelError> {
        let node = node_directory(bpffs, node)?;
        let current = node.join(format!("v{LAYOUT_VERSION}"));
        ensure_bpffs(bpffs, mounts)?;
        fs::create_dir_all(&current).map_err(failed(&current, "created"))?;
        Ok(Self { node, current })
    }

    pub fn directory(&self) -> &Path {
        &self.current
    }

    pub fn path(&self, object: &str) -> PathBuf {
        self.current.join(object)
    }

    /// The directories of other layouts: those of an agent before an upgrade, or after a downgrade.
    pub fn other_layouts(&self) -> Result<Vec<PathBuf>, KernelError> {
        let entries = fs::read_dir(&self.node).map_err(failed(&self.node, "read"))?;
        let paths: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
        let mut paths = paths.map_err(failed(&self.node, "read"))?;
        paths.retain(|path| *path != self.current);
        Ok(paths)
    }
}

/// Where a node's pins are.
pub fn node_directory(bpffs: &Path, node: &str) -> Result<PathBuf, KernelError> {
    // bpffs allows no dots in names: node names have them (they are DNS names), and no colon of their own.
    let is_name = !node.is_empty() && node.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if !is_name {
        return Err(KernelError::NodeName { name: node.to_owned() });
    }
    Ok(bpffs.join(PRODUCT).join(node.replace('.', ":")))
}

fn ensure_bpffs(path: &Path, mounts: bool) -> Result<(), KernelError> {
    let unusable = |source| KernelError::Bpffs { path: path.to_owned(), source };
    match statfs(path) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => return Ok(()),
        Ok(_) | Err(Errno::ENOENT) if !mounts => return Err(KernelError::NoBpffs { path: path.to_owned() }),
        Ok(_) => {}
        Err(Errno::ENOENT) => fs::create_dir_all(path).map_err(unusable)?,
        Err(errno) => return Err(unusable(errno.into())),
    }
    mount(
        Some("bpf"),
        path,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(|errno| unusable(errno.into()))?;
    tracing::info!(path = %path.display(), "mounted a BPF file system: there was none");
    Ok(())
}

pub fn failed(path: &Path, action: &'static str) -> impl Fn(io::Error) -> KernelError {
    move |source| KernelError::Pin { path: path.to_owned(), action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_become_one_directory_each() {
        let directory = |name| node_directory(Path::new("/sys/fs/bpf"), name);
        assert_eq!(directory("ip-10-0-0-1.ec2").unwrap(), Path::new("/sys/fs/bpf/pillion/ip-10-0-0-1:ec2"));
        assert!(directory("").is_err());
        assert!(directory("a/b").is_err());
    }
}
