//! What is measured on: the machine, and the versions of all that takes part. No names of hosts or users, no paths:
//! reports are published.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};

use super::results::Machine;
use crate::workspace;

/// Of the bed's links, unless a contestant sets another.
pub const MTU: u32 = 1500;

/// This machine as it is now.
pub fn look() -> Result<Machine> {
    let cpu = read("/proc/cpuinfo")?;
    let of_cpu = |name: &str| cpu.lines().find_map(|line| field(line, name)).unwrap_or_default();
    let memory = read("/proc/meminfo")?;
    let total = memory.lines().find_map(|line| field(line, "MemTotal")).unwrap_or_default();
    let kib: u64 = total.trim_end_matches("kB").trim().parse().context("/proc/meminfo tells no MemTotal")?;
    let load = read("/proc/loadavg")?;
    let mut load = load.split_whitespace().map_while(|word| word.parse().ok());
    Ok(Machine {
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        cpu: of_cpu("model name").to_owned(),
        cores: thread::available_parallelism()?.get(),
        memory_mib: kib / 1024,
        congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control")?.trim().to_owned(),
        mtu: MTU,
        virtual_machine: of_cpu("flags").split_whitespace().any(|flag| flag == "hypervisor"),
        steal_since_boot: stolen(&read("/proc/stat")?),
        load_before: [(); 3].map(|()| load.next().unwrap_or_default()),
    })
}

/// What each program says of its version; those that are not there are left out.
pub fn versions(envoy: Option<&Path>) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut ask = |name: &str, program: &OsStr, args: &[&str]| {
        if let Some(said) = said(program, args) {
            versions.insert(name.to_owned(), said);
        }
    };
    ask("pillion", OsStr::new("git"), &["describe", "--always", "--dirty", "--abbrev=12"]);
    ask("rustc", OsStr::new("rustc"), &["--version"]);
    ask("nginx", OsStr::new("nginx"), &["-v"]);
    for program in ["wrk", "iperf3", "sockperf", "h2load"] {
        ask(program, OsStr::new(program), &["--version"]);
    }
    if let Some(envoy) = envoy {
        ask("envoy", envoy.as_os_str(), &["--version"]);
    }
    versions
}

/// The first line that says something, in the workspace's root. wrk ends with a failure when asked.
fn said(program: &OsStr, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).current_dir(workspace::root()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Some(version(text.lines().find(|line| !line.trim().is_empty())?))
}

/// Without the way to the program, which Envoy begins with, and without wrk's copyright.
fn version(line: &str) -> String {
    let line = line.split(" [").next().unwrap_or(line);
    let words = line.split_whitespace().filter(|word| !word.starts_with('/'));
    words.collect::<Vec<_>>().join(" ").trim_start_matches("version: ").to_owned()
}

/// What the hypervisor gave to others, of all time there was (`proc_stat(5)`: the eighth column).
fn stolen(stat: &str) -> f64 {
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // Guests' time is in user and nice already: the first eight are all there is.
    let all: f64 = ticks.iter().take(8).sum();
    if all > 0.0 { ticks.get(7).copied().unwrap_or_default() / all } else { 0.0 }
}

/// The value of `name : value`.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (found, value) = line.split_once(':')?;
    (found.trim() == name).then(|| value.trim())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_says_what_it_is() {
        let machine = look().unwrap();
        assert!(machine.cores > 0 && machine.memory_mib > 0, "{machine:?}");
        assert!((0.0..=1.0).contains(&machine.steal_since_boot), "{machine:?}");
    }

    #[test]
    fn a_version_has_no_path() {
        let said = "/some/where/envoy  version: 0f1e/1.40.0/Clean/RELEASE/BoringSSL";
        assert_eq!(version(said), "0f1e/1.40.0/Clean/RELEASE/BoringSSL");
        assert_eq!(version("wrk debian/4.1.0-3+b2 [epoll] Copyright (C)"), "wrk debian/4.1.0-3+b2");
    }

    #[test]
    fn steal_is_a_part_of_all_time() {
        assert_eq!(stolen("cpu  50 0 20 20 0 0 5 5 40 0\ncpu0 …"), 0.05);
    }
}
