//! What all parts of a bed refer to: its name, its places, its objects.

use std::path::PathBuf;

use crate::id::Id;
use crate::manifest::Manifests;

pub(crate) struct Shared {
    pub id: Id,
    /// Everything the bed writes is below.
    pub dir: PathBuf,
    /// The cgroup above the nodes'.
    pub cgroup: PathBuf,
    pub manifests: Manifests,
}

impl Shared {
    pub fn ca_dir(&self) -> PathBuf {
        self.dir.join("ca")
    }

    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// An agent's own directory.
    pub fn state_dir(&self, node: &str) -> PathBuf {
        self.dir.join("state").join(node)
    }
}
