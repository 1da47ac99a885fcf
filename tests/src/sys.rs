//! What only system calls do: a process that begins its life in a pod or in other cgroups, one that hears signals, and
//! a thread that visits a network namespace. The only file with `unsafe`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process;
use std::thread;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::SigSet;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

/// Where a process shall begin its life.
pub(crate) struct Place {
    /// A network namespace, open.
    pub netns: File,
    /// A cgroup's `cgroup.procs`, open for writing.
    pub cgroup: File,
    /// As whom; as this process unless given.
    pub user: Option<(Uid, Gid)>,
}

/// Lets `command` start in `place`: it joins there before its first instruction, so that no packet of it was
/// ever sent from anywhere else.
pub(crate) fn start_in(command: &mut process::Command, place: Place) {
    let join = move || -> io::Result<()> {
        nix::unistd::write(&place.cgroup, b"0")?;
        setns(&place.netns, CloneFlags::CLONE_NEWNET)?;
        if let Some((uid, gid)) = place.user {
            setgroups(&[gid])?;
            setgid(gid)?;
            setuid(uid)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes async-signal-safe system calls only (write, setns,
    // setgroups, setgid, setuid) and allocates nothing: the files are open and the errors are numbers.
    unsafe { command.pre_exec(join) };
    hear_signals(command);
}

/// Lets `command` start in these cgroups, each by its `cgroup.procs`, open for writing; where `as_root`, they are the
/// roots of a cgroup namespace of its own.
pub(crate) fn start_in_cgroups(command: &mut process::Command, cgroups: Vec<File>, as_root: bool) {
    let join = move || -> io::Result<()> {
        for procs in &cgroups {
            nix::unistd::write(procs, b"0")?;
        }
        if as_root {
            unshare(CloneFlags::CLONE_NEWCGROUP)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes async-signal-safe system calls only (write, unshare) and
    // allocates nothing: the files are open and the errors are numbers.
    unsafe { command.pre_exec(join) };
    hear_signals(command);
}

/// Lets `command` start with no signal blocked: children inherit the mask of a process that waits for signals on
/// a thread ([`crate::interrupt`]), and would be deaf to SIGTERM and Ctrl-C.
pub(crate) fn hear_signals(command: &mut process::Command) {
    // SAFETY: sigprocmask is async-signal-safe, and nothing is allocated.
    unsafe { command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?)) };
}

/// Runs `work` on a thread in the network namespace at `path`. Sockets it makes stay there; their cgroup is
/// this process's, so the hooks of a node do not see them.
pub(crate) fn in_netns<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let netns = File::open(path).with_context(|| format!("no network namespace at {}", path.display()))?;
    thread::scope(|scope| {
        let visit = scope.spawn(move || {
            setns(&netns, CloneFlags::CLONE_NEWNET).context("cannot join a network namespace")?;
            work()
        });
        visit.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
