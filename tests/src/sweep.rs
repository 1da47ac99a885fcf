//! Removal by name: what a bed made, and what killed owners left behind.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

use crate::cgroup;
use crate::id::Id;
use crate::ip::{NETNS_DIR, netns_path};

/// Removes the beds of owners that live no more; gives back their names. Beds of the living stay.
pub fn sweep() -> Result<Vec<Id>> {
    remove_all(|id| !id.owner_lives())
}

/// Removes the beds that this process made.
pub(crate) fn remove_own() -> Result<Vec<Id>> {
    remove_all(Id::is_own)
}

fn remove_all(condemned: impl Fn(&Id) -> bool) -> Result<Vec<Id>> {
    let ids: BTreeSet<Id> = leftovers()?.into_iter().map(|(id, _)| id).filter(condemned).collect();
    ids.iter().try_for_each(|id| remove(*id))?;
    Ok(ids.into_iter().collect())
}

/// Everything on this machine that bears a bed's name, living or dead: what it is, and whose.
pub fn leftovers() -> Result<Vec<(Id, PathBuf)>> {
    let mut found = Vec::new();
    for dir in [Path::new(NETNS_DIR).to_owned(), cgroup::mount_point()?, std::env::temp_dir()] {
        for name in names(&dir)? {
            found.extend(Id::of_name(&name).map(|id| (id, dir.join(&name))));
        }
    }
    Ok(found)
}

/// The bed's directory: manifests, logs, the applications' files, its bpffs.
pub(crate) fn dir_of(id: Id) -> PathBuf {
    std::env::temp_dir().join(id.to_string())
}

/// The bed's cgroup, above those of its nodes.
pub(crate) fn cgroup_of(id: Id) -> Result<PathBuf> {
    Ok(cgroup::mount_point()?.join(id.to_string()))
}

/// Ends the bed's processes and removes its cgroups, mounts, network namespaces (with their links) and files,
/// in this order: each is in use by the one before. May run twice at a time.
pub(crate) fn remove(id: Id) -> Result<()> {
    cgroup::remove(&cgroup_of(id)?)?;
    let dir = dir_of(id);
    for mount in mounts_below(&dir)? {
        gone(umount2(&mount, MntFlags::MNT_DETACH), &mount)?;
    }
    for name in names(Path::new(NETNS_DIR))? {
        if Id::of_name(&name) == Some(id) {
            remove_netns(&name)?;
        }
    }
    missing_is_fine(fs::remove_dir_all(&dir)).with_context(|| format!("cannot remove {}", dir.display()))
}

/// Removes one network namespace's name; the namespace ends with the last process in it.
pub(crate) fn remove_netns(name: &str) -> Result<()> {
    let path = netns_path(name);
    gone(umount2(&path, MntFlags::MNT_DETACH), &path)?;
    missing_is_fine(fs::remove_file(&path)).with_context(|| format!("cannot remove {}", path.display()))
}

/// The mounts at or below `dir`, the last made first.
fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let paths = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = paths.filter(|path| path.starts_with(dir)).collect();
    below.reverse();
    Ok(below)
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot list {}", dir.display()))?,
    };
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// An unmount of what is mounted no more (EINVAL) or is not there is fine.
fn gone(result: nix::Result<()>, path: &Path) -> Result<()> {
    match result {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot unmount {}", path.display())),
    }
}

fn missing_is_fine(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
