//! Where the hooks are attached: the root of the node's cgroup2 hierarchy.

use super::KernelError;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// An open cgroup2 directory.
pub struct Cgroup {
    path: PathBuf,
    directory: File,
    id: u64,
}

impl Cgroup {
    /// Opens the given directory, or the root that the agent's own cgroup namespace shows: several nodes on one
    /// kernel, each in a cgroup namespace of its own, catch their own pods only.
    pub fn open(given: Option<&Path>) -> Result<Self, KernelError> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => {
                let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
                find_root(&mounts).ok_or(KernelError::NoCgroup2)?
            }
        };
        let not_cgroup2 = || KernelError::NotCgroup2 { path: path.clone() };
        if statfs(&path).map_err(|_| not_cgroup2())?.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(not_cgroup2());
        }
        let directory = File::open(&path).map_err(|_| not_cgroup2())?;
        let id = directory.metadata().map_err(|_| not_cgroup2())?.ino();
        Ok(Self { path, directory, id })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the kernel calls this cgroup: the directory's inode number.
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// The mount point of a cgroup2 file system whose root is the root of this process's cgroup namespace, in
/// /proc/self/mountinfo. A mount of a part of the tree shows a longer root, one that reaches above the namespace
/// shows `/..`: programs attached there would catch too little, or another node's pods.
fn find_root(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        // 36 35 98:0 /root /mount/point options … - type source options
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        let is_root = root == "/" && file_system.split(' ').next() == Some("cgroup2");
        is_root.then(|| unescape(mount_point))
    })
}

/// mountinfo writes blanks in paths in octal.
fn unescape(path: &str) -> PathBuf {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_found_on_hybrid_hosts() {
        let mountinfo = "25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                         26 25 0:23 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                         27 25 0:24 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_root(mountinfo), Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn mounts_of_other_parts_of_the_tree_are_no_root() {
        let mountinfo = "25 20 0:24 /.. /host/cgroup rw - cgroup2 cgroup2 rw\n\
                         26 20 0:24 /kubepods /pods rw - cgroup2 cgroup2 rw\n\
                         27 20 0:24 / /with\\040blank rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find_root(mountinfo), Some("/with blank".into()));
    }
}
