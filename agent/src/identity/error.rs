//! What can be wrong with the files of `--ca-dir`.

use std::io;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// Why a file cannot be used. Each says where, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum CaDirError {
    #[error("--ca-dir {path}: {source}; give a directory that this user can create and write", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} is gone: put it back; an agent that starts without it makes a new root, which the others' certificates \
         are not from",
        path = .path.display()
    )]
    Gone { path: PathBuf },
    #[error(
        "{path} is readable by others (mode {mode:04o}) and holds the mesh's private key: chmod 600 it",
        path = .path.display()
    )]
    Mode { path: PathBuf, mode: u32 },
    #[error(
        "{path} holds no usable root: {reason}; put a good one there, or remove it and start an agent anew to have \
         one made",
        path = .path.display()
    )]
    Unusable { path: PathBuf, reason: String },
    #[error(
        "the root in {path} is valid from {not_before}, but this machine's clock says {now}: set the clock",
        path = .path.display()
    )]
    NotYetValid { path: PathBuf, not_before: OffsetDateTime, now: OffsetDateTime },
    #[error(
        "the root in {path} expired on {not_after}, this machine's clock says {now}: set the clock if that is \
         wrong, else remove the file and start every agent that shares it anew",
        path = .path.display()
    )]
    Expired { path: PathBuf, not_after: OffsetDateTime, now: OffsetDateTime },
    #[error(
        "{path} is to be trusted, and holds no usable root: {reason}; put a root certificate there (PEM), or remove \
         the file",
        path = .path.display()
    )]
    Trusted { path: PathBuf, reason: String },
    #[error(
        "{path} holds no usable CRL: {reason}; put a good one there, or remove it if nothing is revoked",
        path = .path.display()
    )]
    Crl { path: PathBuf, reason: String },
}

impl CaDirError {
    pub(super) fn unusable(path: &Path, reason: impl ToString) -> Self {
        Self::Unusable { path: path.to_owned(), reason: reason.to_string() }
    }

    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}
