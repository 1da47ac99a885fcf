//! Who owns a bed: a name that tells, by itself, whether its owner still lives.

use std::fmt;
use std::fs;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// A bed's name: `pl<pid>t<start>n<count>`. Network namespaces, cgroups and files of a bed begin with it.
///
/// The process's start time (in clock ticks since boot, hexadecimal) tells the owner from another process that
/// came to have its pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    pid: u32,
    start: u64,
    count: u32,
}

impl Id {
    /// A name that no bed had before.
    pub(crate) fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let pid = std::process::id();
        let start =
            start_time(pid).context("/proc shows no start time of this process: is /proc mounted?")?;
        Ok(Self { pid, start, count: COUNT.fetch_add(1, Ordering::Relaxed) })
    }

    pub fn owner_lives(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }

    /// Whether this very process made the bed.
    pub fn is_own(&self) -> bool {
        self.pid == std::process::id() && self.owner_lives()
    }

    /// The id that `name` begins with: the whole name, or what stands before its first dash.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        name.split('-').next()?.parse().ok()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pl{}t{:x}n{}", self.pid, self.start, self.count)
    }
}

impl FromStr for Id {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        let parse = || {
            let (pid, rest) = s.strip_prefix("pl")?.split_once('t')?;
            let (start, count) = rest.split_once('n')?;
            Some(Self {
                pid: pid.parse().ok()?,
                start: u64::from_str_radix(start, 16).ok()?,
                count: count.parse().ok()?,
            })
        };
        // Only what reads back as it was written is ours to remove.
        parse().filter(|id| id.to_string() == s).ok_or(())
    }
}

/// When the process started (proc_pid_stat(5), field 22); `None` where there is no such process, or a zombie.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.nth(18)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_knows_its_owner() {
        let id = Id::new().unwrap();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.owner_lives() && id.is_own());
        let other = Id { start: id.start + 1, ..id };
        assert!(!other.owner_lives());
    }

    #[test]
    fn names_of_others_are_no_ids() {
        for name in ["", "pl", "plan", "pl1t2", "pl1t2nx", "pl1t2n3x", "pl01t2n3", "pl1tABn3", "xpl1t2n3"] {
            assert!(Id::of_name(name).is_none(), "{name}");
        }
        assert!(Id::of_name("pl1tabn3-web").is_some());
    }
}
