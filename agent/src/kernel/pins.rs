//! Where the kernel keeps what outlives the agent: `<bpffs>/pillion/<node>/v<layout>/`.

use super::{KernelError, sys};
use crate::lock::{Lock, LockError};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use pillion_ebpf_common::LAYOUT_VERSION;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// The directory of a product, so that several nodes (and others' pins) share one bpffs.
const PRODUCT: &str = "pillion";

/// A node's pins, of this process alone until this is dropped: two agents that share them would undo each other's work, and
/// pods would go plain meanwhile.
pub struct Claim {
    /// `<bpffs>/pillion/<node>`, which is locked.
    node: PathBuf,
    lock: Lock,
}

/// The pins of one agent.
pub struct Pins {
    claim: Claim,
    /// The directory of this build's layout, below the node's.
    current: PathBuf,
}

impl Claim {
    /// Makes the node's directory and locks it. Mounts a bpffs first where there is none and `mounts` says so.
    ///
    /// The directory is what agents of one node share, whatever their state directories: a pod sees the same directory
    /// through its hostPath mount as the node does.
    ///
    /// # Errors
    /// [`KernelError::Held`] while another process has them. It does not wait.
    pub fn take(bpffs: &Path, node: &str, mounts: bool) -> Result<Self, KernelError> {
        let node = node_directory(bpffs, node)?;
        ensure_bpffs(bpffs, mounts)?;
        Self::make(node)
    }

    /// The same, where there are pins; makes nothing.
    pub fn of_existing(bpffs: &Path, node: &str) -> Result<Option<Self>, KernelError> {
        let node = node_directory(bpffs, node)?;
        match Lock::take(&node, |node| File::open(node)) {
            Err(LockError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            lock => Self::of(node, lock).map(Some),
        }
    }

    pub fn directory(&self) -> &Path {
        &self.node
    }

    /// Makes and locks the directory again where somebody has removed it. Says whether it was gone.
    fn mend(&mut self) -> Result<bool, KernelError> {
        if self.lock.is_at(&self.node).map_err(failed(&self.node, "looked at"))? {
            return Ok(false);
        }
        *self = Self::make(self.node.clone())?;
        Ok(true)
    }

    fn make(node: PathBuf) -> Result<Self, KernelError> {
        let lock = Lock::take(&node, |node| {
            fs::create_dir_all(node)?;
            File::open(node)
        });
        Self::of(node, lock)
    }

    fn of(node: PathBuf, lock: Result<Lock, LockError>) -> Result<Self, KernelError> {
        match lock {
            Ok(lock) => Ok(Self { node, lock }),
            Err(LockError::Held(holder)) => Err(KernelError::Held { path: node, holder: holder.to_string() }),
            Err(LockError::Io(source)) => Err(failed(&node, "locked")(source)),
        }
    }
}

impl Pins {
    /// Makes the directory of this build's layout.
    pub fn open(claim: Claim) -> Result<Self, KernelError> {
        let current = claim.node.join(format!("v{LAYOUT_VERSION}"));
        fs::create_dir_all(&current).map_err(failed(&current, "created"))?;
        Ok(Self { claim, current })
    }

    /// Makes the directories again that somebody has removed. Says whether any was gone.
    pub fn mend(&mut self) -> Result<bool, KernelError> {
        let was_unlocked = self.claim.mend()?;
        if self.current.is_dir() {
            return Ok(was_unlocked);
        }
        fs::create_dir_all(&self.current).map_err(failed(&self.current, "created"))?;
        Ok(true)
    }

    /// Whether an object has a pin.
    pub fn has(&self, object: &str) -> bool {
        self.path(object).exists()
    }

    pub fn directory(&self) -> &Path {
        &self.current
    }

    pub fn path(&self, object: &str) -> PathBuf {
        self.current.join(object)
    }

    /// The directories of other layouts: those of an agent before an upgrade, or after a downgrade.
    pub fn other_layouts(&self) -> Result<Vec<PathBuf>, KernelError> {
        let node = self.claim.directory();
        let entries = fs::read_dir(node).map_err(failed(node, "read"))?;
        let paths: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
        let mut paths = paths.map_err(failed(node, "read"))?;
        paths.retain(|path| *path != self.current);
        Ok(paths)
    }
}

/// The maps as they are pinned, held open: a map whose pin somebody removes gets another.
pub struct PinnedMaps(Vec<(&'static str, OwnedFd)>);

impl PinnedMaps {
    pub fn open(pins: &Pins, maps: &[&'static str]) -> Result<Self, KernelError> {
        let open = |&map: &&'static str| {
            let path = pins.path(map);
            Ok((map, sys::open_pin(&path).map_err(failed(&path, "opened"))?))
        };
        maps.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Pins the maps again that have no pin. Names them.
    pub fn mend(&self, pins: &Pins) -> Result<Vec<&'static str>, KernelError> {
        let lost: Vec<_> = self.0.iter().filter(|(map, _)| !pins.has(map)).collect();
        for (map, fd) in &lost {
            let path = pins.path(map);
            sys::pin(fd.as_fd(), &path).map_err(failed(&path, "pinned"))?;
        }
        Ok(lost.into_iter().map(|(map, _)| *map).collect())
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

pub fn ensure_bpffs(path: &Path, mounts: bool) -> Result<(), KernelError> {
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
