//! Programs that come from Debian: what is missing is installed, and said.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;

use crate::sys;

/// A Debian package and a program by which it is recognised (searched in the PATH, unless it is a path).
const PACKAGES: &[(&str, &str)] = &[
    ("bpftool", "bpftool"),
    ("chromium", "chromium"),
    ("curl", "curl"),
    ("default-jdk-headless", "javac"),
    ("dropbear-bin", "dropbear"),
    ("golang-go", "go"),
    ("iperf3", "iperf3"),
    ("iproute2", "ip"),
    ("iptables", "iptables"),
    ("linux-perf", "perf"),
    ("make", "make"),
    ("nghttp2-client", "h2load"),
    ("nginx-light", "nginx"),
    ("openssl", "openssl"),
    ("postgresql", "/usr/lib/postgresql"),
    ("python3", "/usr/bin/python3"),
    ("python3-pip", "pip3"),
    ("redis-server", "redis-server"),
    ("redis-tools", "redis-cli"),
    ("sockperf", "sockperf"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
    ("wrk", "wrk"),
];

/// What the bed itself needs.
pub const BED: &[&str] = &["iproute2", "tcpdump"];
/// What the bed and [`crate::apps`] need.
pub const APPS: &[&str] = &[
    "bpftool",
    "iproute2",
    "tcpdump",
    "curl",
    "dropbear-bin",
    "iperf3",
    "nginx-light",
    "postgresql",
    "python3",
    "redis-server",
    "redis-tools",
    "wrk",
];

/// Installs those of the Debian packages whose programs are missing, by apt-get, without starting their services.
pub fn ensure(packages: &[&str]) -> Result<()> {
    // Tests run at the same time: one installs, the others wait and find it done.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_there(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    ensure!(
        geteuid().is_root(),
        "missing Debian packages: install them by `apt-get install {list}`, or run as root"
    );
    ensure!(
        on_path("apt-get"),
        "missing programs of the Debian packages {list}: this machine has no apt-get"
    );
    eprintln!("installing what is missing from Debian: {list}");
    let _no_services = NoServices::new()?;
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"], missing.as_slice()].concat())?;
    match missing.iter().find(|package| !is_there(package)) {
        Some(package) => bail!("Debian's {package} is installed, but its program is not found"),
        None => Ok(()),
    }
}

fn is_there(package: &str) -> bool {
    let program = PACKAGES.iter().find(|(name, _)| *name == package).map_or(package, |(_, program)| program);
    on_path(program)
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).exists())
}

/// Runs apt-get; when another one is at work, it waits for its end.
pub(crate) fn apt(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    sys::hear_signals(&mut command);
    let status = command
        .args(["-o", "DPkg::Lock::Timeout=600"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(std::io::stderr())
        .status();
    let status = status.context("cannot run apt-get")?;
    ensure!(status.success(), "`apt-get {}` failed with {status}", args.join(" "));
    Ok(())
}

/// Debian's way to install a server without starting it (invoke-rc.d(8)): a policy that forbids everything, as
/// long as this lives. A policy of the machine's own stays as it is.
struct NoServices;

const POLICY: &str = "/usr/sbin/policy-rc.d";

/// The policy is there and is ours.
static FORBIDDEN: AtomicBool = AtomicBool::new(false);

impl NoServices {
    fn new() -> Result<Self> {
        if !Path::new(POLICY).exists() {
            FORBIDDEN.store(true, Ordering::SeqCst);
            let write = || {
                fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
                fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))
            };
            write().with_context(|| format!("cannot write {POLICY}"))?;
        }
        Ok(Self)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        allow_services();
    }
}

/// Takes the policy away again, where it is ours; also for whoever is interrupted.
pub(crate) fn allow_services() {
    if FORBIDDEN.swap(false, Ordering::SeqCst)
        && let Err(error) = fs::remove_file(POLICY)
    {
        eprintln!("{POLICY} is left behind: {error}");
    }
}
