//! What a machine finds when it begins: its own mounts, name and loopback.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};
use nix::unistd::sethostname;

use super::cgroups;

/// The kubelet insists on writing these, and they are the whole kernel's: it writes files instead.
const KERNEL_WIDE: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Lays it out, on a thread that is in its namespaces but for the cgroups', which is that of its first process.
pub(super) fn lay_out(name: &str, dir: &Path, first: u32) -> Result<()> {
    // Read before /proc is another.
    let mount_cgroups = cgroups::mount_again()?;
    let cgroups = File::open(format!("/proc/{first}/ns/cgroup")).context("the first process has ended")?;
    setns(&cgroups, CloneFlags::CLONE_NEWCGROUP)?;
    let (none, from_here) = (MsFlags::empty(), MsFlags::MS_BIND);
    attach(None, "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    let_go_of_others()?;
    mount_cgroups()?;
    attach_proc("/proc")?;
    // Pins of this machine's eBPF objects, gone when it is off.
    attach(Some("bpf"), "/sys/fs/bpf", Some("bpf"), none, Some("mode=0700"))?;
    let var = dir.join("var");
    attach(Some(&var.to_string_lossy()), "/var", None, from_here, None)?;
    attach(Some("tmpfs"), "/run", Some("tmpfs"), none, Some("mode=755"))?;
    for sysctl in KERNEL_WIDE {
        let (real, file) = (format!("/proc/sys/{sysctl}"), format!("/run/sysctl/{sysctl}"));
        fs::create_dir_all(Path::new(&file).parent().context("a sysctl is in a directory")?)?;
        fs::write(&file, fs::read(&real)?)?;
        attach(Some(&file), &real, None, from_here, None)?;
    }
    // Pods in user namespaces may mount proc only while some proc here is not partly covered.
    fs::create_dir_all("/run/proc")?;
    attach_proc("/run/proc")?;
    attach(None, "/", None, MsFlags::MS_REC | MsFlags::MS_SHARED, None)?;
    sethostname(name).context("cannot name the machine")?;
    run("ip", &["link", "set", "lo", "up"])
}

/// Unmounts what would be hidden here, and what others have mounted to hold kernel objects of theirs: a copy of it
/// would hold a network namespace, or pins, that they have let go of.
fn let_go_of_others() -> Result<()> {
    // This thread's: the process's other threads are in another namespace.
    let mounts = fs::read_to_string("/proc/thread-self/mounts")?;
    let theirs = mounts.lines().rev().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        let hidden = at.starts_with("/run/") || at.starts_with("/var/");
        (hidden || kind == "nsfs" || kind == "bpf").then_some(at)
    });
    for at in theirs {
        match umount2(at, MntFlags::MNT_DETACH) {
            // It went with another.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot unmount {at}")),
        }
    }
    Ok(())
}

/// By a child: it is in the machine's pid namespace, of which this thread only is where its children begin, and proc
/// shows that of who mounts it.
fn attach_proc(at: &str) -> Result<()> {
    run("mount", &["-t", "proc", "proc", at])
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let status =
        Command::new(program).args(args).status().with_context(|| format!("cannot run {program}"))?;
    ensure!(status.success(), "`{program} {}` ended with {status}", args.join(" "));
    Ok(())
}

fn attach(
    what: Option<&str>,
    at: &str,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<()> {
    mount(what, at, kind, flags, options)
        .with_context(|| format!("cannot mount {} at {at}", what.unwrap_or("anything")))
}
