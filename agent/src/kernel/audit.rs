//! Compares what is wanted with what the kernel holds, and mends it: others have root on the node, too.

use super::tables::PodCapture;
use super::{Kernel, KernelError};
use std::collections::HashMap;

/// Something that was not as it should be, and is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// `link`, `pod_entry`, `member`, `exclusion` or `stale_entry` (the label of the metric).
    pub what: &'static str,
    pub detail: String,
}

impl Kernel {
    /// Pods that are neither wanted nor refused are released. Refused pods stay refused.
    pub fn audit(&mut self, wanted: &HashMap<u64, PodCapture>) -> Result<Vec<Repair>, KernelError> {
        let mut repairs = self.audit_links()?;
        for (&cookie, pod) in wanted {
            let mut repaired = |what| repairs.push(Repair { what, detail: format!("netns cookie {cookie}") });
            if !self.tables.has_member(cookie)? {
                self.tables.add_member(cookie)?;
                repaired("member");
            }
            let added = self.tables.add_exclusions(cookie, pod)?;
            if !self.tables.has_pod(cookie, pod)? {
                self.tables.set_pod(cookie, pod)?;
                repaired("pod_entry");
            }
            if self.tables.remove_other_exclusions(cookie, pod)? || added {
                repaired("exclusion");
            }
            self.refused.remove(&cookie);
        }
        for cookie in self.refused.clone() {
            if !self.tables.has_member(cookie)? {
                self.refuse(cookie)?;
                repairs.push(Repair { what: "member", detail: format!("netns cookie {cookie} (refused)") });
            }
        }
        for cookie in self.tables.known()? {
            if !wanted.contains_key(&cookie) && !self.refused.contains(&cookie) {
                self.release(cookie)?;
                repairs.push(Repair { what: "stale_entry", detail: format!("netns cookie {cookie}") });
            }
        }
        Ok(repairs)
    }

    fn audit_links(&mut self) -> Result<Vec<Repair>, KernelError> {
        let mut repairs = Vec::new();
        for link in &mut self.links {
            let program = super::program(&self.ebpf, link.hook())?;
            if let Some(wrong) = link.mend(&program, &self.cgroup, &self.pins)? {
                repairs.push(Repair { what: "link", detail: format!("{} {wrong}", link.hook().name) });
            }
        }
        Ok(repairs)
    }
}
