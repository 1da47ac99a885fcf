//! What a machine must have before anything is loaded: each lack is one clear sentence.

use super::KernelError;
use std::fs;
use std::path::Path;

/// `bpf_get_netns_cookie` in sock_ops programs is the newest thing the hooks need.
const OLDEST_KERNEL: (u32, u32) = (5, 15);

/// Since this version a program can find the MPTCP socket of a subflow. Without it MPTCP clients are captured just
/// the same, but see the worker as their peer.
const MPTCP_HELPER: (u32, u32) = (5, 19);

/// Since this version a guard is told by which device a packet comes.
const INGRESS_DEVICE: (u32, u32) = (5, 17);

/// Since this version programs are attached to network devices as links of their own.
const TCX: (u32, u32) = (6, 6);

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Capability numbers of linux/capability.h, and what each is for.
const CAPABILITIES: [(u32, &str); 4] = [
    // attach to a cgroup
    (12, "CAP_NET_ADMIN"),
    // setns into pods, mount a bpffs
    (21, "CAP_SYS_ADMIN"),
    // let programs read sockets
    (38, "CAP_PERFMON"),
    // load programs, make maps
    (39, "CAP_BPF"),
];

pub fn check() -> Result<(), KernelError> {
    check_version(&read("/proc/sys/kernel/osrelease"))?;
    if !Path::new(BTF).exists() {
        return Err(KernelError::NoBtf { path: BTF });
    }
    check_capabilities(&read("/proc/self/status"))
}

/// Whether the kernel has MPTCP, and `bpf_skc_to_mptcp_sock`.
pub fn tells_mptcp_sockets() -> bool {
    version(&read("/proc/sys/kernel/osrelease")) >= MPTCP_HELPER && Path::new("/proc/sys/net/mptcp").exists()
}

/// Whether `struct bpf_sk_lookup` has `ingress_ifindex`.
pub fn tells_ingress_device() -> bool {
    version(&read("/proc/sys/kernel/osrelease")) >= INGRESS_DEVICE
}

pub fn has_tcx() -> bool {
    version(&read("/proc/sys/kernel/osrelease")) >= TCX
}

/// An unreadable file reads as an empty one, which fails its check.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn check_version(release: &str) -> Result<(), KernelError> {
    if version(release) < OLDEST_KERNEL {
        return Err(KernelError::TooOld { found: release.trim().to_owned() });
    }
    Ok(())
}

/// What is no version is the oldest of all.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn check_capabilities(status: &str) -> Result<(), KernelError> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(number, _)| effective & (1 << number) == 0)
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        return Err(KernelError::MissingCapabilities { missing: missing.join(", ") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_older_than_5_15_is_refused_by_name() {
        assert!(check_version("5.15.0-91-generic\n").is_ok());
        assert!(check_version("6.1.0\n").is_ok());
        let error = check_version("5.4.0-150-generic\n").unwrap_err().to_string();
        assert!(error.starts_with("kernel 5.4.0-150-generic is too old"), "{error}");
        assert!(check_version("").is_err());
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert!(check_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n").is_ok());
        let error = check_capabilities("CapEff:\t0000000000201000\n").unwrap_err().to_string();
        assert!(error.starts_with("the agent lacks CAP_PERFMON, CAP_BPF:"), "{error}");
    }
}
