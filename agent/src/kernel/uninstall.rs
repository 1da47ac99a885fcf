//! Takes everything out of the kernel again.

use super::pins::{Claim, failed};
use super::{KernelError, links, path};
use std::fs;
use std::path::Path;

/// Removes all that the agent of a node has pinned. Says what that was; nothing is fine too.
///
/// Nobody else has the pins until the last one is gone: an agent that runs has them itself, and one that starts waits or ends.
pub fn node(bpffs: &Path, node: &str) -> Result<Vec<String>, KernelError> {
    let mut removed = Vec::new();
    let Some(claim) = Claim::of_existing(bpffs, node)? else { return Ok(removed) };
    let node = claim.directory();
    for entry in fs::read_dir(node).map_err(failed(node, "read"))? {
        let directory = entry.map_err(failed(node, "read"))?.path();
        removed.extend(layout(&directory)?);
    }
    fs::remove_dir(node).map_err(failed(node, "removed"))?;
    // Other nodes' directories may be in it: then it stays.
    if let Some(product) = node.parent() {
        let _ = fs::remove_dir(product);
    }
    Ok(removed)
}

/// Removes a layout's directory: links first, so that no hook runs without the maps it stands for. Answers the
/// names of what was in it.
pub fn layout(directory: &Path) -> Result<Vec<String>, KernelError> {
    path::detach_all_filters()?;
    let entries = fs::read_dir(directory).map_err(failed(directory, "read"))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    // The hooks that redirect go before those that make sense of what was redirected.
    names.sort_by_key(|name| links::removal_order(name));
    for name in &names {
        let path = directory.join(name);
        let removed = if links::is_link(name) { links::remove(&path) } else { fs::remove_file(&path) };
        removed.map_err(failed(&path, "removed"))?;
    }
    fs::remove_dir(directory).map_err(failed(directory, "removed"))?;
    Ok(names)
}
