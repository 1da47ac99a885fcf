//! How much memory this process may use, and how unused memory goes back to the system.

use crate::kernel::{free_heap_bytes, give_heap_back};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

/// What the chart gives an agent.
const CHART_LIMIT: usize = 1 << 30;

/// How often the heap is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Less than this is not worth a walk over the whole heap.
const WORTH_GIVING_BACK: usize = 1 << 20;

/// The bytes of memory that this process may use: the smallest limit of its memory cgroup and of those above it, as far as
/// `/sys/fs/cgroup` shows them (`memory.max`, or `memory.limit_in_bytes` of the first version). Where there is no limit: a quarter of the
/// machine's memory, at most the 1 GiB that the chart gives an agent.
pub fn allowance() -> usize {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let physical = fs::read_to_string("/proc/meminfo").ok().and_then(|text| physical(&text));
    // The first version writes a number that no machine has where there is no limit.
    let limit = cgroup_limit(Path::new("/sys/fs/cgroup"), &own)
        .filter(|limit| physical.is_none_or(|physical| *limit < physical));
    limit.unwrap_or_else(|| physical.map_or(CHART_LIMIT, |bytes| (bytes / 4).min(CHART_LIMIT)))
}

/// Returns freed memory to the system, for ever. An allocator keeps what was freed for its next use, and glibc's keeps what lies
/// between two allocations in use until it is told otherwise. jemalloc, which the container image has, gives it back by itself.
pub async fn give_back() {
    let (mut free_after, mut resident_after) = (0_usize, 0_usize);
    loop {
        sleep(LOOK_INTERVAL).await;
        let (free, now) = (free_heap_bytes(), resident());
        // What was given back still counts as free. Only what has been freed since is worth another walk, or what was in use again
        // since, which the resident memory tells.
        let was_freed = free > free_after.saturating_add(WORTH_GIVING_BACK);
        let was_used = free > WORTH_GIVING_BACK && now > resident_after.saturating_add(WORTH_GIVING_BACK);
        if was_freed || was_used {
            give_heap_back();
            (free_after, resident_after) = (free_heap_bytes(), resident());
        } else {
            (free_after, resident_after) = (free_after.min(free), resident_after.min(now));
        }
    }
}

/// Bytes of anonymous memory that the process has resident (`RssAnon`); `usize::MAX` where the kernel does not tell.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    kib.map_or(usize::MAX, |kib| kib * 1024)
}

fn cgroup_limit(root: &Path, own: &str) -> Option<usize> {
    // A limit of "max" is none.
    let limits = limit_files(root, own).into_iter();
    limits.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

/// Where the limits of the cgroups may stand that `/proc/self/cgroup` names. In a container the path may be the host's; then
/// the root of what is mounted there is the container's own cgroup.
fn limit_files(root: &Path, own: &str) -> Vec<PathBuf> {
    let of_line = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (mounts, name) = match controllers {
            "" => (&[".", "unified"][..], "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => {
                (&["memory"][..], "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let above = || Path::new(path.trim_start_matches('/')).ancestors();
        let files =
            mounts.iter().flat_map(|mount| above().map(move |path| root.join(mount).join(path).join(name)));
        Some(files.collect::<Vec<_>>())
    };
    own.lines().filter_map(of_line).flatten().collect()
}

fn physical(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: ISO-3
    #[test]
    fn the_smallest_limit_on_the_way_to_the_process_counts() {
        let root = std::env::temp_dir().join(format!("pillion-memory-{}", std::process::id()));
        let leaf = root.join("pods/agent");
        fs::create_dir_all(&leaf).unwrap();
        let limit = |of: &Path, text: &str| fs::write(of.join("memory.max"), text).unwrap();
        let found = || cgroup_limit(&root, "0::/pods/agent\n");
        assert_eq!(found(), None);
        limit(&leaf, "max\n");
        assert_eq!(found(), None);
        limit(&root.join("pods"), "2147483648\n");
        assert_eq!(found(), Some(2 << 30));
        limit(&leaf, "1073741824\n");
        assert_eq!(found(), Some(1 << 30));
        // A container sees its own cgroup as the root.
        limit(&root, "536870912\n");
        assert_eq!(cgroup_limit(&root, "0::/\n"), Some(512 << 20));
        // A machine that has both versions.
        fs::create_dir_all(root.join("memory/pods")).unwrap();
        fs::write(root.join("memory/pods/memory.limit_in_bytes"), "268435456\n").unwrap();
        assert_eq!(cgroup_limit(&root, "9:cpu,memory:/pods\n0::/\n"), Some(256 << 20));
        fs::remove_dir_all(root).unwrap();
        assert_eq!(physical("MemTotal:       24683940 kB\nMemFree: 1 kB\n"), Some(24_683_940 * 1024));
    }
}
