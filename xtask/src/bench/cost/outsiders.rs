//! CPU time of processes that do not belong to the run.

use std::fs;
use std::path::Path;
use std::process;

use anyhow::{Context, Result};

/// Clock ticks of /proc/PID/stat are hundredths of a second on every Linux that runs here.
const TICKS: f64 = 100.0;

/// A thread of the kernel (`PF_KTHREAD`): what it does, it does for others, the bed among them.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Seconds that processes outside of the bed's cgroup have used, with the children they have waited for: a compiler
/// that came and went counts as its make's. This process does not count, for the bed's are its children.
///
/// Ticks of /proc/stat less the cgroup's time would be simpler, and wrong: the kernel may or may not charge interrupts to
/// the process that was interrupted.
pub fn used(bed: &Path) -> Result<f64> {
    let bed = bed.file_name().context("the bed's cgroup has no name")?.to_string_lossy();
    let mut sum = 0.0;
    for entry in fs::read_dir("/proc").context("cannot list /proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // What ends while it is looked at has told its parent.
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        if pid == process::id() || read("cgroup").contains(&*bed) {
            continue;
        }
        sum += seconds(&read("stat")).unwrap_or_default();
    }
    Ok(sum)
}

/// utime, stime, cutime and cstime (proc_pid_stat(5), fields 14 to 17), unless it is one of the kernel's (field 9).
fn seconds(stat: &str) -> Option<f64> {
    // The program's name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    if field(9)? & KERNEL_THREAD != 0 {
        return None;
    }
    Some((14..=17).filter_map(field).sum::<u64>() as f64 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_counts_with_its_children_and_a_kernel_thread_does_not() {
        let stat = |flags: u64| format!("7 (a) b) S 1 7 7 0 -1 {flags} 1 2 3 4 100 50 30 20 20 0 1 0 99 0 0");
        assert_eq!(seconds(&stat(0x0040_0000)), Some(2.0));
        assert_eq!(seconds(&stat(0x0020_8040)), None);
        assert_eq!(seconds(""), None);
    }
}
