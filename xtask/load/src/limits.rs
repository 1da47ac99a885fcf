//! The limit of open files, which is below what tens of thousands of connections need.

use std::fs;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Besides connections: standard streams, epoll, timers.
const OTHERS: u64 = 50;

/// Raises it as far as it goes: to the kernel's bound where this process may, else to its own hard limit.
pub fn raise_open_files() -> Result<()> {
    let bound = fs::read_to_string("/proc/sys/fs/nr_open").context("cannot read /proc/sys/fs/nr_open")?;
    let bound: u64 = bound.trim().parse().context("/proc/sys/fs/nr_open is no number")?;
    if setrlimit(Resource::RLIMIT_NOFILE, bound, bound).is_err() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")?;
    }
    Ok(())
}

/// An error says that the limit does not allow so many, before the first is opened.
pub fn allow_connections(count: usize) -> Result<()> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        count as u64 + OTHERS <= limit,
        "{count} connections are more than the {limit} files that a process may open here: raise the hard limit \
         (`ulimit -Hn`), or allow CAP_SYS_RESOURCE"
    );
    Ok(())
}
