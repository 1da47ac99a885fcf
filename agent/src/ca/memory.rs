//! A directory in memory for keys that are to be on no disk.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where Linux has memory as a file system, in containers, too.
pub const MEMORY: &str = "/dev/shm";

/// A fresh directory that nobody else may read. It is gone with this value.
pub struct PrivateDir(PathBuf);

impl PrivateDir {
    pub fn new(below: &Path) -> io::Result<Self> {
        let path = below.join(format!("pillion-ca-{:016x}", rand::random::<u64>()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What is said of files in here, for people who know them by another name.
    pub fn renamed(&self, said: &str, name: &str) -> String {
        let path = self.0.display().to_string();
        said.replace(&format!("{path}/"), &format!("{name} ")).replace(&path, name)
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            tracing::error!("{} holds a private key and cannot be removed: {e}", self.0.display());
        }
    }
}
