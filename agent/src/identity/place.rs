//! How files come into `--ca-dir`: whole, with the mode that they need, or not at all.

use super::ca_dir::{PUBLIC, SIGNING, SigningRoot};
use super::error::CaDirError;
use super::trust::{Trust, certificate_pem};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// For files with a private key.
pub(crate) const PRIVATE: u32 = 0o600;
pub(crate) const READABLE: u32 = 0o644;

/// Makes directory and root where there are none; of several agents that start at once one wins, and all use its root.
pub(super) fn create_if_missing(
    dir: &Path,
    make: impl FnOnce() -> Result<SigningRoot, String>,
) -> Result<(), CaDirError> {
    let io_error = |source| CaDirError::io(dir, source);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error)?;
    let path = dir.join(SIGNING);
    if !path.try_exists().map_err(io_error)? {
        let root = make().map_err(|e| CaDirError::unusable(&path, e))?;
        create(&path, &root.pem()).map_err(io_error)?;
    }
    Ok(())
}

/// Writes all trusted roots down for people.
pub(super) fn publish(dir: &Path, trust: &Trust) -> io::Result<()> {
    let path = dir.join(PUBLIC);
    let pem: String = trust.roots().map(|root| certificate_pem(&root.certificate)).collect();
    if fs::read_to_string(&path).is_ok_and(|there| there == pem) {
        return Ok(());
    }
    write(&path, &pem, READABLE)
}

/// Replaces what is there, if anything is.
pub(crate) fn write(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    let temporary = write_beside(path, content, mode)?;
    fs::rename(temporary, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

impl SigningRoot {
    pub(crate) fn pem(&self) -> String {
        format!("{}{}", self.key.serialize_pem(), certificate_pem(&self.root.certificate))
    }
}

/// Leaves what is there: `link` fails when the name is taken, and then the winner's file is the one to use.
fn create(path: &Path, content: &str) -> io::Result<()> {
    let temporary = write_beside(path, content, PRIVATE)?;
    let placed = match fs::hard_link(&temporary, path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    fs::remove_file(&temporary)?;
    placed?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

/// Writes a file under a hidden name of its own.
fn write_beside(path: &Path, content: &str, mode: u32) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().display();
    let temporary = path.with_file_name(format!(".{name}.{:016x}", rand::random::<u64>()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    let written = file.write_all(content.as_bytes()).and_then(|()| file.sync_all());
    if let Err(e) = written {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        return Err(e);
    }
    Ok(temporary)
}
