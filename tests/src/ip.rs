//! Network namespaces and links, by iproute2.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};

use anyhow::{Context, Result, bail};

use crate::{ending, sys};

/// The link-layer address of every bridge, for good: otherwise it would be the lowest of its ports', and its neighbours would look
/// for it there when that port is gone. Bridges have no link in common.
pub const BRIDGE: &str = "02:00:00:00:00:01";

/// Where `ip netns` keeps its namespaces (ip-netns(8)).
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// The sysctls of every namespace: IPv6 on, addresses usable at once (no duplicate address detection), nothing
/// learnt from routers, forwarding as on a Kubernetes node.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
];
const FORWARDING: &[(&str, &str)] = &[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")];

/// The file that holds the namespace of this name open.
pub(crate) fn netns_path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Makes a network namespace; `forwarding` makes it a router, as a node is.
pub(crate) fn add_netns(name: &str, forwarding: bool) -> Result<()> {
    run(&["netns", "add", name], "")?;
    set_sysctls(name, SYSCTLS)?;
    if forwarding {
        set_sysctls(name, FORWARDING)?;
    }
    batch(name, "link set lo up")
}

/// Runs the lines of `commands` as `ip -n netns …`, all or up to the first that fails.
pub(crate) fn batch(netns: &str, commands: &str) -> Result<()> {
    run(&["-n", netns, "-batch", "-"], commands)
}

/// Writes sysctls of a namespace, given as paths below `/proc/sys` (which shows the reader's own namespace).
pub(crate) fn set_sysctls(netns: &str, sysctls: &[(&str, &str)]) -> Result<()> {
    sys::in_netns(&netns_path(netns), || {
        for (name, value) in sysctls {
            let path = Path::new("/proc/sys").join(name);
            fs::write(&path, value).with_context(|| format!("cannot set {} to {value}", path.display()))?;
        }
        Ok(())
    })
}

fn run(args: &[&str], input: &str) -> Result<()> {
    ending::stand_still();
    let shown = || format!("ip {}", args.join(" "));
    let mut child = process::Command::new("ip")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{}`: is iproute2 installed?", shown()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`{}` failed: {}\n{input}", shown(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
