//! The proof that an image is the same wherever it is built.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::content::Archive;
use super::directory;
use super::program::Checkout;
use crate::workspace;

/// Builds the archive once more: from a clone of the last commit, in another directory, from nothing. The compilers are
/// the same, as they are pinned.
pub fn check(archive: &Archive, file: &Path) -> Result<()> {
    let changed = Command::new("git").args(["status", "--porcelain"]).current_dir(workspace::root()).output();
    let changed = changed.context("cannot run git")?;
    ensure!(
        changed.status.success() && changed.stdout.is_empty(),
        "what is compared is a clone of the last commit: commit what has changed, or put it away"
    );
    let elsewhere = directory().join("another-place-with-a-longer-name");
    let remove = || match fs::remove_dir_all(&elsewhere) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    remove().with_context(|| format!("cannot remove {}", elsewhere.display()))?;
    let root = elsewhere.join("clone");
    workspace::run(Command::new("git").args(["clone", "--quiet"]).arg(workspace::root()).arg(&root))?;
    let again = elsewhere.join("again.tar");
    archive.write(&Checkout { target: root.join("target"), root }, &again)?;
    ensure!(
        fs::read(file)? == fs::read(&again)?,
        "the image depends on where it is built: {} and {} differ",
        file.display(),
        again.display()
    );
    remove().with_context(|| format!("cannot remove {}", elsewhere.display()))
}
