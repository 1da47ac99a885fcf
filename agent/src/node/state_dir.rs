//! The state directory: one agent at a time, and what `uninstall` has to know.

use crate::nri::Installation;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

const LOCK: &str = "agent.lock";
/// How soon after the end of another agent its directory is taken. The lock cannot be waited for without a thread.
const TRY_EVERY: Duration = Duration::from_millis(50);

const RECORD: &str = "agent.json";
/// What an agent leaves to its successor of sandboxes.
pub const SANDBOXES: &str = "sandboxes.json";
/// What it leaves of the pods that it has captured.
pub const CAPTURED: &str = "captured.json";
/// What a file is until it is whole.
const DRAFT: &str = ".draft";

/// The directory, held by this process until it is dropped.
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

/// Where an agent's kernel objects are.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub node: String,
    pub bpffs: PathBuf,
    /// What was put into the container runtime's folders.
    #[serde(default)]
    pub plugin: Option<Installation>,
}

#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    #[error("--state-dir {path}: {source}; give a directory that this user can create and write", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("--state-dir {path} is in use by another agent; stop it, or give this one a directory of its own", path = .path.display())]
    InUse { path: PathBuf },
    #[error("--state-dir {path} belongs to node {there:?}, not to {asked:?}; give each node a directory of its own", path = .path.display())]
    OtherNode { path: PathBuf, there: String, asked: String },
    #[error("{path} is not what an agent wrote: {reason}; name the node's pins below the BPF file system yourself and remove them", path = .path.display())]
    Record { path: PathBuf, reason: String },
}

impl StateDir {
    /// Takes the directory, and makes it if it is not there.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let error = |source| StateDirError::Io { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(error)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .map_err(error)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err((_, nix::Error::EWOULDBLOCK)) => Err(StateDirError::InUse { path: path.to_owned() }),
            Err((_, e)) => Err(error(e.into())),
        }
    }

    /// Takes the directory as soon as nobody else has it.
    pub async fn succeed(path: &Path) -> Result<Self, StateDirError> {
        let mut has_waited = false;
        loop {
            match Self::open(path) {
                Err(StateDirError::InUse { .. }) if !has_waited => {
                    tracing::info!("another agent has {}: standing by until it ends", path.display());
                    has_waited = true;
                }
                Err(StateDirError::InUse { .. }) => {}
                taken => return taken,
            }
            sleep(TRY_EVERY).await;
        }
    }

    /// What the last agent here wrote down, if there was one.
    pub fn record(&self) -> Result<Option<Record>, StateDirError> {
        let path = self.path.join(RECORD);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| StateDirError::Record { path, reason: e.to_string() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateDirError::Io { path, source }),
        }
    }

    /// Writes down where this agent's kernel objects will be, before it makes any.
    pub fn write(&self, record: &Record) -> Result<(), StateDirError> {
        if let Some(there) = self.record()?
            && there.node != record.node
        {
            let asked = record.node.clone();
            return Err(StateDirError::OtherNode { path: self.path.clone(), there: there.node, asked });
        }
        let path = self.path.join(RECORD);
        let written = serde_json::to_vec(record).map_err(Into::into).and_then(|json| replace(&path, &json));
        written.map_err(|source| StateDirError::Io { path, source })
    }

    /// Removes what an agent left here; the directory itself stays if something else is in it.
    pub fn remove(self) -> Result<(), StateDirError> {
        for name in [RECORD, SANDBOXES, CAPTURED, DRAFT, LOCK] {
            match fs::remove_file(self.path.join(name)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StateDirError::Io { path: self.path.clone(), source });
                }
                _ => {}
            }
        }
        match fs::remove_dir(&self.path) {
            Err(source)
                if !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) =>
            {
                Err(StateDirError::Io { path: self.path.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

/// Writes a file of the state directory, whole or not at all.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_file_name(DRAFT);
    fs::write(&draft, content)?;
    fs::rename(draft, path)
}
