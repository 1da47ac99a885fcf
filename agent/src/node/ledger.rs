//! Which network namespace belongs to which pod, for the agent and for its successor.
//!
//! An agent writes a pod down when it has entered the pod's namespace, and so before it captures the pod. It strikes the pod
//! out when the kernel has let the pod go. A successor that cannot enter the namespace knows by the ledger whom to refuse.

use super::netns::{Leads, NetnsId, leads};
use super::state_dir::{CAPTURED, replace};
use crate::mesh::{PodName, Workload};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Cookies count from the start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

pub struct Ledger {
    path: PathBuf,
    boot: String,
    entries: BTreeMap<u64, Entry>,
    /// Why the file does not say what `entries` say; the next attempt writes all.
    unwritten: Option<String>,
}

/// A pod whose namespace an agent has entered, to capture it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub cookie: u64,
    pub pod: PodName,
    pub uid: String,
    /// The path by which the namespace was entered.
    pub netns: PathBuf,
    pub id: NetnsId,
}

#[derive(Serialize, Deserialize)]
struct Written {
    boot: String,
    captured: Vec<Entry>,
}

impl Entry {
    /// Whether the object is this very pod's, and not that of another pod under the same name.
    pub fn is_of(&self, object: &Workload) -> bool {
        self.pod == object.name && self.uid == object.uid
    }

    pub fn leads(&self) -> Leads {
        leads(&self.netns, self.id)
    }
}

impl Ledger {
    /// What the last agent here has left. A file of an earlier boot says nothing: its namespaces are gone. Of a file that
    /// cannot be read the pods are still refused, but nobody knows their names.
    pub fn open(state_dir: &Path) -> Self {
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        let path = state_dir.join(CAPTURED);
        let read = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<Written>(&bytes)?));
        let captured = match read {
            Ok(written) if written.boot == boot => written.captured,
            Ok(_) => Vec::new(),
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            Err(e) => {
                tracing::error!(
                    "{}: which pods the last agent has captured cannot be read, so pods that this agent does not capture \
                     stay refused until their network namespaces end: {e}",
                    path.display()
                );
                Vec::new()
            }
        };
        let entries = captured.into_iter().map(|entry| (entry.cookie, entry)).collect();
        Self { path, boot, entries, unwritten: None }
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub fn has(&self, cookie: u64) -> bool {
        self.entries.contains_key(&cookie)
    }

    /// Writes a pod down.
    pub fn enter(&mut self, entry: Entry) {
        if self.entries.get(&entry.cookie) != Some(&entry) {
            self.entries.insert(entry.cookie, entry);
            self.write();
        }
    }

    /// Strikes a pod out that is released or gone.
    pub fn strike(&mut self, cookie: u64) {
        if self.entries.remove(&cookie).is_some() {
            self.write();
        }
    }

    /// Tries once more to write what could not be written.
    pub fn mend(&mut self) {
        if self.unwritten.is_some() || (!self.entries.is_empty() && !self.path.exists()) {
            self.write();
        }
    }

    /// Why a successor would not know all pods, if so.
    pub fn unwritten(&self) -> Option<&str> {
        self.unwritten.as_deref()
    }

    /// The file is whole, as it is or as it was. Nothing of a pod depends on it while this agent lives.
    fn write(&mut self) {
        let written = Written { boot: self.boot.clone(), captured: self.entries.values().cloned().collect() };
        let written = serde_json::to_vec(&written).map_err(io::Error::from);
        let failed = written.and_then(|json| replace(&self.path, &json)).err().map(|e| {
            format!("{}: a restarted agent would not know all captured pods: {e}", self.path.display())
        });
        if let Some(reason) = failed.as_ref().filter(|reason| self.unwritten.as_ref() != Some(*reason)) {
            tracing::error!("--state-dir: {reason}; each audit tries again");
        }
        self.unwritten = failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("pillion-ledger-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn entry(cookie: u64) -> Entry {
        let netns = PathBuf::from("/proc/self/ns/net");
        let id = NetnsId::of(&File::open(&netns).unwrap()).unwrap();
        let pod = PodName { namespace: "shop".into(), name: format!("web-{cookie}") };
        Entry { cookie, pod, uid: "uid".into(), netns, id }
    }

    fn cookies(ledger: &Ledger) -> Vec<u64> {
        ledger.entries().map(|entry| entry.cookie).collect()
    }

    // proves: SEC-3
    #[test]
    fn a_successor_knows_the_pods_that_were_captured_and_not_let_go() {
        let dir = dir("successor");
        let mut ledger = Ledger::open(&dir);
        [3, 4, 5].into_iter().for_each(|cookie| ledger.enter(entry(cookie)));
        ledger.strike(4);
        assert_eq!(cookies(&Ledger::open(&dir)), [3, 5]);
        assert_eq!(Ledger::open(&dir).entries().next(), Some(&entry(3)));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn cookies_of_an_earlier_boot_are_nobodys() {
        let dir = dir("boot");
        let mut ledger = Ledger { boot: "another".into(), ..Ledger::open(&dir) };
        ledger.enter(entry(3));
        assert_eq!(cookies(&Ledger::open(&dir)), [0_u64; 0]);
        fs::remove_dir_all(dir).unwrap();
    }

    // proves: SEC-3
    #[test]
    fn what_cannot_be_written_is_told_and_written_later_and_nothing_is_lost() {
        let dir = dir("unwritten");
        fs::create_dir(dir.join(CAPTURED)).unwrap();
        let mut ledger = Ledger::open(&dir);
        ledger.enter(entry(3));
        let told = ledger.unwritten().unwrap();
        assert!(told.contains(CAPTURED) && ledger.has(3), "{told}");
        ledger.mend();
        assert!(ledger.unwritten().is_some());
        fs::remove_dir(dir.join(CAPTURED)).unwrap();
        ledger.mend();
        assert_eq!(ledger.unwritten(), None);
        assert_eq!(cookies(&Ledger::open(&dir)), [3]);
        // Somebody removes it.
        fs::remove_file(dir.join(CAPTURED)).unwrap();
        ledger.mend();
        assert_eq!(cookies(&Ledger::open(&dir)), [3]);
        fs::remove_dir_all(dir).unwrap();
    }
}
