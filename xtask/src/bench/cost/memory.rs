//! Memory: the proportional set size, in which a page that several processes share counts once.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::read;

/// Of all processes in the cgroups (not below them), in KiB (proc_pid_smaps(5), `smaps_rollup`).
pub fn pss(cgroups: &[PathBuf]) -> Result<f64> {
    let mut sum = 0.0;
    for cgroup in cgroups {
        for pid in read(cgroup, "cgroup.procs")?.lines() {
            sum += of_process(pid)?;
        }
    }
    Ok(sum)
}

/// What is free for new processes, in KiB.
pub fn available() -> Result<f64> {
    let info = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    kibibytes(&info, "MemAvailable:").context("/proc/meminfo tells no MemAvailable")
}

fn of_process(pid: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let rollup = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    kibibytes(&rollup, "Pss:").with_context(|| format!("{path} tells no Pss"))
}

fn kibibytes(text: &str, field: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
