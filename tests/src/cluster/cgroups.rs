//! A machine's cgroups: one of the same name in every hierarchy, version 1 or 2, which is the root to the machine. Its
//! own programs are in `system` below it: version 2 wants no process beside children that have controllers.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{cgroup, wait};

/// A mounted hierarchy.
struct Hierarchy {
    at: PathBuf,
    /// "cgroup" or "cgroup2".
    kind: String,
    /// What a mount of the same has to name: `cpu,cpuacct`.
    options: String,
}

/// The machine's cgroups, by their name.
pub(super) struct Cgroups(pub String);

const SYSTEM: &str = "system";

impl Cgroups {
    /// Makes them.
    pub(super) fn create(&self) -> Result<()> {
        for hierarchy in hierarchies()? {
            for path in [self.root(&hierarchy), self.system(&hierarchy)] {
                cgroup::create(&path)?;
                if hierarchy.kind == "cgroup" {
                    open_cpuset(&hierarchy.at, &path)?;
                }
            }
        }
        Ok(())
    }

    /// The roots' `cgroup.procs`, by which a process joins.
    pub(super) fn root_procs(&self) -> Result<Vec<File>> {
        hierarchies()?.iter().map(|hierarchy| cgroup::procs(&self.root(hierarchy))).collect()
    }

    /// Those of the machine's own programs.
    pub(super) fn system_procs(&self) -> Result<Vec<File>> {
        hierarchies()?.iter().map(|hierarchy| cgroup::procs(&self.system(hierarchy))).collect()
    }

    /// Every process at or below the root in version 2.
    pub(super) fn processes(&self) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        processes(&cgroup::mount_point()?.join(&self.0), &mut found)?;
        Ok(found)
    }

    /// Kills what is left in them and removes them. Gives whether there were any.
    pub(super) fn remove(&self) -> Result<bool> {
        let there: Vec<PathBuf> = hierarchies()?
            .iter()
            .map(|hierarchy| self.root(hierarchy))
            .filter(|root| root.exists())
            .collect();
        // Every process is in version 2's as well: that one first, and the others are empty.
        cgroup::remove(&cgroup::mount_point()?.join(&self.0))?;
        for root in &there {
            // The kernel takes its time with what the last process held.
            let what = format!("the cgroup {} to be empty", root.display());
            wait::until(&what, Duration::from_secs(10), || match cgroup::remove_dirs(root) {
                Ok(()) => Ok(Some(())),
                Err(error) if is_busy(&error) => Ok(None),
                Err(error) => Err(error),
            })?;
        }
        Ok(!there.is_empty())
    }

    fn root(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.at.join(&self.0)
    }

    fn system(&self, hierarchy: &Hierarchy) -> PathBuf {
        self.root(hierarchy).join(SYSTEM)
    }
}

/// What comes after `prefix` in the names of cgroups.
pub(super) fn beginning_with(prefix: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies()? {
        for entry in fs::read_dir(&hierarchy.at)? {
            let name = entry?.file_name();
            found.extend(name.to_str().and_then(|name| name.strip_prefix(prefix)).map(str::to_owned));
        }
    }
    Ok(found)
}

/// Mounts every hierarchy again where it is, on a thread in a machine's mount and cgroup namespaces: from then on its
/// root is the machine's.
pub(super) fn mount_again() -> Result<impl FnOnce() -> Result<()>> {
    let hierarchies = hierarchies()?;
    Ok(move || {
        for Hierarchy { at, kind, options } in &hierarchies {
            umount2(at, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", at.display()))?;
            mount(Some("cgroup"), at, Some(kind.as_str()), MsFlags::empty(), Some(options.as_str()))
                .with_context(|| format!("cannot mount {kind} with {options:?} at {}", at.display()))?;
        }
        Ok(())
    })
}

fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let hierarchy = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let known = at.starts_with("/sys/fs/cgroup") && (kind == "cgroup" || kind == "cgroup2");
        let options = if kind == "cgroup" { version_1_options(options) } else { String::new() };
        known.then(|| Hierarchy { at: at.into(), kind: kind.to_owned(), options })
    };
    Ok(mounts.lines().filter_map(hierarchy).collect())
}

/// A hierarchy of version 1 is known by its controllers, or by its name where it has none.
fn version_1_options(shown: &str) -> String {
    const GENERAL: [&str; 6] = ["rw", "ro", "relatime", "nosuid", "nodev", "noexec"];
    let options = shown.split(',').filter(|option| !GENERAL.contains(option));
    let named = options
        .map(|option| if option.starts_with("name=") { format!("none,{option}") } else { option.into() });
    named.collect::<Vec<_>>().join(",")
}

/// A cpuset of version 1 takes nobody until it is told its processors and memory.
fn open_cpuset(top: &Path, path: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (top.join(file), path.join(file));
        if to.exists() {
            let copied = fs::read(from).and_then(|text| fs::write(&to, text));
            copied.with_context(|| format!("cannot write {}", to.display()))?;
        }
    }
    Ok(())
}

fn processes(path: &Path, found: &mut Vec<u32>) -> Result<()> {
    let Ok(text) = fs::read_to_string(path.join("cgroup.procs")) else { return Ok(()) };
    found.extend(text.lines().filter_map(|pid| pid.parse::<u32>().ok()));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            processes(&entry.path(), found)?;
        }
    }
    Ok(())
}

fn is_busy(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::ResourceBusy)
}
