//! How much memory this process may have.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that this process may use: the smallest limit of its memory cgroup and of those above it (`memory.max`, or
/// `memory.limit_in_bytes` of the first version), else the node's memory.
///
/// Without any that can be read there is no limit (`usize::MAX`).
pub(super) fn limit() -> usize {
    let physical = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits =
        files(&own).into_iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    limits.chain(physical).min().unwrap_or(usize::MAX)
}

/// Where the limits of the cgroups may stand that `/proc/self/cgroup` names. In a container the path may be the host's; then
/// the root of what is mounted there is the container's own cgroup.
fn files(own: &str) -> Vec<PathBuf> {
    let of_line = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (roots, name): (&[&str], _) = match controllers {
            "" => (&["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => {
                (&["/sys/fs/cgroup/memory"], "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let above = || Path::new(path.trim_start_matches('/')).ancestors();
        Some(
            roots
                .iter()
                .flat_map(|root| above().map(|path| Path::new(root).join(path).join(name)))
                .collect::<Vec<_>>(),
        )
    };
    own.lines().filter_map(of_line).flatten().collect()
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_stands_in_the_own_cgroup_or_in_one_above_it() {
        let found = files("9:cpu,memory:/a\n3:cpu:/x\n0::/b/c\n");
        let expected = [
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/b/c/memory.max",
            "/sys/fs/cgroup/b/memory.max",
            "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/unified/b/c/memory.max",
            "/sys/fs/cgroup/unified/b/memory.max",
            "/sys/fs/cgroup/unified/memory.max",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn the_nodes_memory_is_given_in_kib() {
        assert_eq!(total("MemTotal:       24000 kB\nMemFree: 1 kB\n"), Some(24_000 << 10));
        assert!(limit() > 1 << 20);
    }
}
