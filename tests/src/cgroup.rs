//! The bed's cgroups: directories below the machine's cgroup2 mount, without controllers.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::ending;

/// How long killed processes may take to be gone: they may have gigabytes to give back.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// Where cgroup2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hosts that have both versions.
pub(crate) fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .find(|(_, kind)| *kind == "cgroup2")
        .map(|(path, _)| path.into())
        .context("no cgroup2 is mounted: `mount -t cgroup2 none /sys/fs/cgroup/unified` makes one")
}

/// Makes the cgroup and those above it.
pub(crate) fn create(path: &Path) -> Result<()> {
    ending::stand_still();
    fs::create_dir_all(path).with_context(|| format!("cannot make the cgroup {}", path.display()))
}

/// The file through which a process joins (it writes 0 there).
pub(crate) fn procs(path: &Path) -> Result<File> {
    let procs = path.join("cgroup.procs");
    OpenOptions::new().write(true).open(&procs).with_context(|| format!("cannot open {}", procs.display()))
}

/// Kills every process at or below `path` and removes the cgroups. Nothing there is nothing to do.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::write(path.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == ErrorKind::NotFound && !path.exists() => return Ok(()),
        other => other.with_context(|| format!("cannot kill what runs in {}", path.display()))?,
    }
    wait_empty(path)?;
    remove_dirs(path).with_context(|| format!("cannot remove the cgroup {}", path.display()))
}

/// Waits for the kernel to report that no process is left (cgroup-v2, "cgroup.events").
fn wait_empty(path: &Path) -> Result<()> {
    let mut events = match File::open(path.join("cgroup.events")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let mut text = String::new();
        events.seek(SeekFrom::Start(0))?;
        match events.read_to_string(&mut text) {
            // Another sweep was faster.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => return Ok(()),
            other => other?,
        };
        if text.contains("populated 0") {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "killed processes in {} do not end", path.display());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], timeout)?;
    }
}

/// Leaves first: a cgroup with children cannot be removed.
pub(crate) fn remove_dirs(path: &Path) -> Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_dirs(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => bail!(error),
        _ => Ok(()),
    }
}
