//! What one process at a time may have: a lock on a file or a directory (flock(2)), which ends with the process.

#![forbid(unsafe_code)]

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{major, minor};
use std::fmt::{self, Display, Formatter};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A lock that this process holds until this value is dropped.
pub struct Lock {
    file: Flock<File>,
}

#[derive(Debug)]
pub enum LockError {
    /// Another process has it.
    Held(Holder),
    Io(io::Error),
}

/// The process that has a lock, as far as this process can know it.
#[derive(Debug, PartialEq, Eq)]
pub struct Holder {
    /// None where /proc/locks does not tell: processes of another pid namespace are not shown there.
    pid: Option<u32>,
    program: Option<String>,
}

impl Lock {
    /// Takes the lock on what `open` opens at `path`, and never waits. `open` may make what it opens.
    ///
    /// # Errors
    /// [`LockError::Held`] while another process has the lock, and what `open` and flock(2) say.
    pub fn take(path: &Path, open: impl Fn(&Path) -> io::Result<File>) -> Result<Self, LockError> {
        loop {
            let file = match Flock::lock(open(path).map_err(LockError::Io)?, FlockArg::LockExclusiveNonblock)
            {
                Ok(file) => file,
                Err((file, Errno::EWOULDBLOCK)) => return Err(LockError::Held(Holder::of(&file))),
                Err((_, errno)) => return Err(LockError::Io(errno.into())),
            };
            // Whoever had the lock may have removed the file between our open and our lock: then the next process would
            // make another file of that name, and lock that one.
            if is_at(&file, path).map_err(LockError::Io)? {
                return Ok(Self { file });
            }
        }
    }

    /// Whether what is locked is what is found at `path`: somebody may have removed it, and the next process would make and
    /// lock another.
    pub fn is_at(&self, path: &Path) -> io::Result<bool> {
        is_at(&self.file, path)
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Holder {
    fn of(file: &File) -> Self {
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        let pid = file.metadata().ok().and_then(|held| holder_in(&locks, held.dev(), held.ino()));
        let program = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        Self { pid, program: program.map(|name| name.trim_end().to_owned()) }
    }
}

impl Display for Holder {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.program) {
            (Some(pid), Some(program)) => write!(f, "process {pid}, {program}"),
            (Some(pid), None) => write!(f, "process {pid}"),
            (None, _) => f.write_str("a process that cannot be seen from here"),
        }
    }
}

/// Who holds the flock on a file, in the words of /proc/locks (proc_locks(5)).
fn holder_in(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    locks.lines().find_map(|line| {
        // 2: FLOCK  ADVISORY  WRITE 1234 00:1b:5678 0 EOF. Who waits for a lock has "->" after the number.
        let mut fields = line.split_whitespace().skip(1);
        let kind = fields.next()?;
        let (pid, locked) = (fields.nth(2)?, fields.next()?);
        (kind == "FLOCK" && locked == file).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn place(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("pillion-lock-{name}-{}", std::process::id()))
    }

    fn open(path: &Path) -> io::Result<File> {
        fs::create_dir_all(path)?;
        File::open(path)
    }

    #[test]
    fn a_second_one_is_refused_and_told_who_has_it() {
        let path = place("second");
        let first = Lock::take(&path, open).unwrap_or_else(|_| panic!("nobody has it"));
        let Err(LockError::Held(holder)) = Lock::take(&path, open) else { panic!("it is held") };
        assert_eq!(holder.pid, Some(std::process::id()));
        assert!(holder.to_string().starts_with(&format!("process {}, ", std::process::id())), "{holder}");
        drop(first);
        assert!(Lock::take(&path, open).is_ok());
        fs::remove_dir(&path).unwrap();
    }

    #[test]
    fn a_lock_on_what_has_been_removed_meanwhile_is_none() {
        let path = place("removed");
        let first = std::cell::Cell::new(true);
        let lock = Lock::take(&path, |path| {
            let file = open(path)?;
            // As if the former holder had removed it, and ended, just now.
            if first.take() {
                fs::remove_dir(path)?;
            }
            Ok(file)
        });
        assert!(lock.is_ok());
        assert!(matches!(Lock::take(&path, open), Err(LockError::Held(_))), "it is locked under its name");
        fs::remove_dir(&path).unwrap();
    }

    #[test]
    fn the_holder_is_read_from_the_kernels_list() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:1b:5678 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 22 00:1b:5678 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 33 00:1b:5678 0 EOF\n";
        assert_eq!(holder_in(locks, 0x1b, 5678), Some(22));
        assert_eq!(holder_in(locks, 0x1b, 5679), None);
    }
}
