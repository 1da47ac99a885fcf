//! Compares what is wanted with what the kernel holds, and mends it: others have root on the node, too.

use super::capture::PodCapture;
use super::links::Place;
use super::{Kernel, KernelError};
use std::collections::{BTreeSet, HashMap};

/// Something that was not as it should be, and is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// `link`, `pod_entry`, `source_list`, `member`, `exclusion` or `stale_entry` (the label of the metric).
    pub what: &'static str,
    pub detail: String,
}

impl Kernel {
    /// Pods that are neither wanted nor refused are forgotten, released ones as soon as their last direct connection is
    /// over. Refused pods stay refused.
    pub fn audit(&mut self, wanted: &HashMap<u64, PodCapture>) -> Result<Vec<Repair>, KernelError> {
        let mut repairs = self.audit_links()?;
        for list in self.local.mend_lists()? {
            let detail = format!("the list {list} of who may connect in plain");
            repairs.push(Repair { what: "source_list", detail });
        }
        let mut others = BTreeSet::new();
        for (&cookie, pod) in wanted {
            if self.local.set_pod(cookie, pod, self.device(cookie))? {
                others.insert(cookie);
            }
        }
        others.append(&mut self.local.remove_others(|cookie| wanted.get(&cookie))?);
        for (&cookie, pod) in wanted {
            let mut repaired = |what| repairs.push(Repair { what, detail: format!("netns cookie {cookie}") });
            if !self.tables.has_member(cookie)? {
                self.tables.add_member(cookie)?;
                repaired("member");
            }
            let device = self.device(cookie);
            let added = self.tables.add_exclusions(cookie, pod)?;
            if self.tables.set_pod(cookie, pod, device)? || others.contains(&cookie) {
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
        self.forget_those_that_left()?;
        let known = self.tables.known()?.into_iter().chain(self.local.known()?);
        for cookie in known.collect::<BTreeSet<u64>>() {
            if !wanted.contains_key(&cookie)
                && !self.refused.contains(&cookie)
                && !self.leaving.contains(&cookie)
            {
                self.forget(cookie)?;
                repairs.push(Repair { what: "stale_entry", detail: format!("netns cookie {cookie}") });
            }
        }
        Ok(repairs)
    }

    /// Takes the programs off the veths of released pods that no direct connection needs any more.
    fn forget_those_that_left(&mut self) -> Result<(), KernelError> {
        if self.leaving.is_empty() {
            return Ok(());
        }
        let busy = self.pods_with_flows()?;
        let idle: Vec<u64> = self.leaving.difference(&busy).copied().collect();
        idle.into_iter().try_for_each(|cookie| self.forget(cookie))
    }

    /// The netns cookies of both ends of the direct connections that are open.
    pub(super) fn pods_with_flows(&self) -> Result<BTreeSet<u64>, KernelError> {
        let mut busy = BTreeSet::new();
        for flow in self.flows.all()? {
            busy.extend([flow.client_netns, flow.server_netns]);
        }
        Ok(busy)
    }

    fn audit_links(&mut self) -> Result<Vec<Repair>, KernelError> {
        let mut repairs = Vec::new();
        for (hook, link) in &mut self.hooks {
            let program = super::program(&self.ebpf, hook.program)?;
            if let Some(wrong) = link.mend(&program, &Place::Cgroup(&self.cgroup))? {
                repairs.push(Repair { what: "link", detail: format!("{} {wrong}", hook.name) });
            }
        }
        Ok(repairs)
    }
}
