//! The limit of open files, which is below what tens of thousands of connections need.

use std::fs;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises it as far as it goes: to the kernel's bound as root, else to this process's own hard limit.
pub fn raise_open_files() -> Result<()> {
    let bound = fs::read_to_string("/proc/sys/fs/nr_open").context("cannot read /proc/sys/fs/nr_open")?;
    let bound: u64 = bound.trim().parse().context("/proc/sys/fs/nr_open is no number")?;
    if setrlimit(Resource::RLIMIT_NOFILE, bound, bound).is_err() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")?;
    }
    Ok(())
}
