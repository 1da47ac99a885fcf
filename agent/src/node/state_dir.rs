//! The state directory: one agent at a time, and what `uninstall` has to know.
//!
//! What protects pods is not in here: an agent serves also where nothing can be written, and says what it cannot remember.

use crate::lock::{Lock, LockError};
use crate::nri::Installation;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

const LOCK: &str = "agent.lock";

const RECORD: &str = "agent.json";
/// What an agent leaves to its successor of sandboxes.
pub const SANDBOXES: &str = "sandboxes.json";
/// The policies of the mesh as they could be read last.
pub const LAST_GOOD: &str = "policies.json";
/// What it leaves of the pods that it has captured.
pub const CAPTURED: &str = "captured.json";
/// What a file is until it is whole.
const DRAFT: &str = ".draft";

/// The directory, held by this process until it is dropped.
pub struct StateDir {
    path: PathBuf,
    /// None where the file system takes no new file: then the lock on the node's pins is the only one.
    _lock: Option<Lock>,
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
    #[error("--state-dir {path} is in use by another agent ({holder}); stop it, or give this one a directory of its own", path = .path.display())]
    InUse { path: PathBuf, holder: String },
    #[error("--state-dir {path} belongs to node {there:?}, not to {asked:?}; give each node a directory of its own", path = .path.display())]
    OtherNode { path: PathBuf, there: String, asked: String },
    #[error("{path} is not what an agent wrote: {reason}; name the node's pins below the BPF file system yourself and remove them", path = .path.display())]
    Record { path: PathBuf, reason: String },
}

impl StateDir {
    /// Takes the directory, and makes it if it is not there. A file system without room for the lock's file is no error.
    ///
    /// # Errors
    /// [`StateDirError::InUse`] while another agent has it; [`StateDirError::Io`] where this can be no agent's directory.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let lock = fs::create_dir_all(path).map_err(LockError::Io).and_then(|()| {
            // A file system that takes nothing new may have the file already.
            let open = |file: &Path| {
                let made = File::options().create(true).truncate(false).write(true).open(file);
                made.or_else(|error| File::open(file).map_err(|_| error))
            };
            Lock::take(&path.join(LOCK), open)
        });
        let lock = match lock {
            Ok(lock) => Some(lock),
            Err(LockError::Held(holder)) => {
                return Err(StateDirError::InUse { path: path.to_owned(), holder: holder.to_string() });
            }
            Err(LockError::Io(error)) if takes_nothing(&error) => {
                tracing::error!(
                    "--state-dir {} cannot be locked, and the agent goes on: {error}",
                    path.display()
                );
                None
            }
            Err(LockError::Io(source)) => return Err(StateDirError::Io { path: path.to_owned(), source }),
        };
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Whether this is the directory of that node's agent, as far as anybody has written it down; for who does not have it.
    ///
    /// # Errors
    /// [`StateDirError::OtherNode`].
    pub fn check_node(path: &Path, node: &str) -> Result<(), StateDirError> {
        let there = Self { path: path.to_owned(), _lock: None };
        there.is_of(there.record().ok().flatten().as_ref(), node)
    }

    /// What the last agent here wrote down, for the next one. A record that cannot be read is told, and counts as none: it is
    /// written anew.
    pub fn former(&self) -> Option<Record> {
        self.record().unwrap_or_else(|error| {
            tracing::error!("what the last agent wrote down is lost, and the agent goes on: {error}");
            None
        })
    }

    /// What the last agent here wrote down, if there was one.
    pub fn record(&self) -> Result<Option<Record>, StateDirError> {
        let path = self.path.join(RECORD);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| StateDirError::Record { path, reason: e.to_string() }),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateDirError::Io { path, source }),
        }
    }

    /// Writes down where this agent's kernel objects will be, before it makes any. What cannot be written is told, and the agent
    /// goes on: `pillion uninstall` is what needs the record, and pods need the agent.
    ///
    /// # Errors
    /// [`StateDirError::OtherNode`] where `former`, the last agent's record, is another node's.
    pub fn write(&self, record: &Record, former: Option<&Record>) -> Result<(), StateDirError> {
        self.is_of(former, &record.node)?;
        if former == Some(record) {
            return Ok(());
        }
        let path = self.path.join(RECORD);
        let written =
            serde_json::to_vec(record).map_err(Into::into).and_then(|json| replace_durably(&path, &json));
        if let Err(error) = written {
            tracing::error!(
                "{} cannot be written, and the agent goes on: `pillion uninstall` will not find what it makes: {error}",
                path.display()
            );
        }
        Ok(())
    }

    fn is_of(&self, former: Option<&Record>, node: &str) -> Result<(), StateDirError> {
        match former.filter(|there| there.node != node) {
            Some(there) => {
                let (there, asked) = (there.node.clone(), node.to_owned());
                Err(StateDirError::OtherNode { path: self.path.clone(), there, asked })
            }
            None => Ok(()),
        }
    }

    /// Removes what an agent left here; the directory itself stays if something else is in it.
    pub fn remove(self) -> Result<(), StateDirError> {
        for name in [RECORD, SANDBOXES, CAPTURED, LAST_GOOD, DRAFT, LOCK] {
            match fs::remove_file(self.path.join(name)) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(StateDirError::Io { path: self.path.clone(), source });
                }
                _ => {}
            }
        }
        match fs::remove_dir(&self.path) {
            Err(source) if !matches!(source.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
                Err(StateDirError::Io { path: self.path.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

/// Whether an error says that the file system takes nothing new, which is no fault of the path.
fn takes_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem)
}

/// As [`replace`], and it is there after a power failure, too.
fn replace_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_file_name(DRAFT);
    let mut file = File::create(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(draft, path)
}

/// Writes a file of the state directory, whole or not at all.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_file_name(DRAFT);
    fs::write(&draft, content)?;
    fs::rename(draft, path)
}
