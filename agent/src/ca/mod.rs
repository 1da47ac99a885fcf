//! `pillion ca`: what people do to the embedded authority. It works on the directory alone; agents follow it.
//!
//! Each command leaves the directory whole wherever it is interrupted, and can be given again.

mod error;
mod revoke;
mod rotate;
mod show;
#[cfg(test)]
mod tests;

pub use error::OperationError;

use crate::cli::{Ca, CaDir, Finish, Rotate, Switch};
use crate::identity::ca_dir::{self, SigningRoot};
use crate::identity::place;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Carries a command out; gives what there is to say.
pub fn run(command: &Ca) -> Result<String, OperationError> {
    let dir = match command {
        Ca::Show(CaDir { path }) | Ca::Rotate(Rotate::Begin(CaDir { path })) => path,
        Ca::Rotate(Rotate::Switch(Switch { ca_dir, .. }) | Rotate::Finish(Finish { ca_dir, .. })) => {
            &ca_dir.path
        }
        Ca::Revoke(revoke) => &revoke.ca_dir.path,
    };
    let dir = Dir::open(dir)?;
    match command {
        Ca::Show(_) => show::show(&dir),
        Ca::Rotate(Rotate::Begin(_)) => rotate::begin(&dir),
        Ca::Rotate(Rotate::Switch(switch)) => rotate::switch(&dir, switch.force),
        Ca::Rotate(Rotate::Finish(finish)) => rotate::finish(&dir, finish.cert_lifetime, finish.force),
        Ca::Revoke(revoke) => revoke::revoke(&dir, &revoke.serials),
    }
}

/// The directory, while no other command works on it.
struct Dir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Dir {
    /// The directory is locked itself: nothing of the lock is left in it.
    fn open(path: &Path) -> Result<Self, OperationError> {
        let error = |source| OperationError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).open(path).map_err(error)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path: path.to_owned(), _lock: lock }),
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
        format!("pillion ca {what} --ca-dir {}", self.path.display())
    }
}

fn date(time: OffsetDateTime) -> String {
    let seconds = time.replace_nanosecond(0).unwrap_or(time);
    seconds.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}
