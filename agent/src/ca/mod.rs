//! `pillion ca`: what people do to the embedded authority, and its server. Commands work on the directory alone; agents
//! follow it. A cluster has a Secret for a directory ([`secret`]), and [`serve`] for agents that ask.
//!
//! Each command leaves the directory whole wherever it is interrupted, and can be given again.

mod error;
mod in_secret;
mod memory;
mod revoke;
mod rotate;
mod secret;
pub mod serve;
mod show;
#[cfg(test)]
mod tests;

pub use error::OperationError;

use crate::cli::{CaOperation, CaPlace, Finish, Rotate, Switch};
use crate::identity::ca_dir::{self, SigningRoot};
use crate::identity::place;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Carries a command out; gives what there is to say.
pub async fn run(operation: &CaOperation) -> Result<String, OperationError> {
    let CaPlace { ca_dir, secret, kubeconfig } = operation.place();
    match (ca_dir, secret) {
        (_, Some(secret)) => in_secret::run(operation, secret, kubeconfig.as_deref()).await,
        (Some(dir), None) => in_dir(operation, dir, format!("--ca-dir {}", dir.display())),
        (None, None) => Err(OperationError::NoPlace),
    }
}

/// On a directory, which people know by `place`.
fn in_dir(operation: &CaOperation, dir: &Path, place: String) -> Result<String, OperationError> {
    let dir = Dir::open(dir, place)?;
    match operation {
        CaOperation::Show(_) => show::show(&dir),
        CaOperation::Rotate(Rotate::Begin(_)) => rotate::begin(&dir),
        CaOperation::Rotate(Rotate::Switch(Switch { force, .. })) => rotate::switch(&dir, *force),
        CaOperation::Rotate(Rotate::Finish(Finish { cert_lifetime, force, .. })) => {
            rotate::finish(&dir, *cert_lifetime, *force)
        }
        CaOperation::Revoke(revoke) => revoke::revoke(&dir, &revoke.serials),
    }
}

/// The directory, while no other command works on it.
struct Dir {
    path: PathBuf,
    /// As it is given on a command line.
    place: String,
    _lock: Flock<File>,
}

impl Dir {
    /// The directory is locked itself: nothing of the lock is left in it.
    fn open(path: &Path, place: String) -> Result<Self, OperationError> {
        let error = |source| OperationError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).open(path).map_err(error)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path: path.to_owned(), place, _lock: lock }),
            Err((_, nix::Error::EWOULDBLOCK)) => Err(OperationError::Busy { path: path.to_owned() }),
            Err((_, e)) => Err(error(e.into())),
        }
    }

    fn root_at(&self, name: &str) -> Result<Option<SigningRoot>, OperationError> {
        Ok(ca_dir::root_at(&self.path.join(name))?)
    }

    /// The root that signs.
    fn signing(&self) -> Result<SigningRoot, OperationError> {
        self.root_at(ca_dir::SIGNING)?.ok_or_else(|| OperationError::NoRoot { path: self.path.clone() })
    }

    fn write(&self, path: &Path, content: &str, mode: u32) -> Result<(), OperationError> {
        place::write(path, content, mode).map_err(|e| self.io(path, e))
    }

    fn io(&self, path: &Path, source: std::io::Error) -> OperationError {
        OperationError::Io { path: path.to_owned(), source }
    }

    /// The command that is to be given next.
    fn command(&self, what: &str) -> String {
        format!("pillion ca {what} {}", self.place)
    }
}

fn date(time: OffsetDateTime) -> String {
    let seconds = time.replace_nanosecond(0).unwrap_or(time);
    seconds.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}
