//! Which network namespace a path leads to.

use nix::sys::statfs::{NSFS_MAGIC, statfs};
use serde::{Deserialize, Serialize};
use std::fs::{File, metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A network namespace by its file. No other living namespace has the same; one that is made later may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

/// Where a path leads, compared with a namespace that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// Into that namespace.
    There,
    /// Into another namespace.
    Elsewhere,
    /// To no namespace: there is no such file, or it is none of a namespace.
    Nowhere,
    /// That cannot be found out now.
    Unknown,
}

impl NetnsId {
    pub fn of(netns: &File) -> io::Result<Self> {
        netns.metadata().map(|metadata| Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// Opens nothing, so that a shortage of descriptors is no answer.
pub fn leads(path: &Path, known: NetnsId) -> Leads {
    let found =
        statfs(path).map_err(io::Error::from).and_then(|of| Ok((of.filesystem_type(), metadata(path)?)));
    match found {
        Ok((NSFS_MAGIC, found)) if (NetnsId { device: found.dev(), inode: found.ino() }) == known => {
            Leads::There
        }
        Ok((NSFS_MAGIC, _)) => Leads::Elsewhere,
        Ok(_) => Leads::Nowhere,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Leads::Nowhere,
        Err(_) => Leads::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_path_leads_into_the_namespace_that_its_file_is_of() {
        let own = NetnsId::of(&File::open("/proc/self/ns/net").unwrap()).unwrap();
        let ipc = NetnsId::of(&File::open("/proc/self/ns/ipc").unwrap()).unwrap();
        assert_eq!(leads("/proc/self/ns/net".as_ref(), own), Leads::There);
        assert_eq!(leads("/proc/self/ns/net".as_ref(), ipc), Leads::Elsewhere);
        assert_eq!(leads("/nowhere".as_ref(), own), Leads::Nowhere);
        assert_eq!(leads("/proc/version/none".as_ref(), own), Leads::Nowhere);
        // `ip netns` leaves an empty file where a namespace was, for a moment.
        let empty = std::env::temp_dir().join(format!("pillion-netns-{}", std::process::id()));
        fs::write(&empty, "").unwrap();
        assert_eq!(leads(&empty, own), Leads::Nowhere);
        fs::remove_file(empty).unwrap();
    }
}
