//! Compares what is wanted with what the kernel holds, and mends it: others have root on the node, too.

use super::capture::PodCapture;
use super::links::Place;
use super::{Kernel, KernelError, shares};
use std::collections::{BTreeSet, HashMap};

/// Something that was not as it should be, and is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// `pin`, `link`, `pod_entry`, `source_list`, `member` or `exclusion` (the label of the metric).
    pub what: &'static str,
    pub detail: String,
}

/// An audit that could not compare or mend everything. What it could mend is mended.
#[derive(Debug, thiserror::Error)]
#[error("{}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Incomplete {
    pub repairs: Vec<Repair>,
    pub errors: Vec<KernelError>,
}

/// What an audit has found so far. An error about one object keeps nobody from looking at the next one.
#[derive(Default)]
struct Found {
    repairs: Vec<Repair>,
    errors: Vec<KernelError>,
}

impl Kernel {
    /// Puts right the hooks, and what the tables say of the pods that are wanted and of those that are refused. Entries of
    /// other pods stay as they are: [`Kernel::strangers`] names them, and whoever knows that such a pod is released or
    /// gone calls [`Kernel::forget`].
    ///
    /// # Errors
    ///
    /// What could not be compared or mended. All the rest was looked at none the less.
    pub fn audit(&mut self, wanted: &HashMap<u64, PodCapture>) -> Result<Vec<Repair>, Incomplete> {
        let mut found = Found::default();
        self.audit_pins(&mut found);
        self.audit_links(&mut found);
        self.tables.read_exclusions_anew();
        for list in found.value(self.local.mend_lists()).into_iter().flatten() {
            let detail = format!("the list {list} of who may connect in plain");
            found.repairs.push(Repair { what: "source_list", detail });
        }
        let (mut written, mut others) = (HashMap::new(), BTreeSet::new());
        let wanted: HashMap<u64, _> =
            wanted.iter().map(|(cookie, pod)| (*cookie, shares::within(pod))).collect();
        for (&cookie, pod) in &wanted {
            let pod: &PodCapture = pod;
            match found.value(self.local.set_pod(cookie, pod, self.device(cookie))) {
                Some(true) => drop(others.insert(cookie)),
                Some(false) => {}
                // Ports lose their entries only after the pod's own entry says what holds without them.
                None => continue,
            }
            written.insert(cookie, pod);
        }
        let removed = self.local.remove_others(|cookie| written.get(&cookie).copied());
        others.extend(found.value(removed).into_iter().flatten());
        for (&cookie, pod) in &wanted {
            let mended = self.mend_pod(cookie, pod, others.contains(&cookie), &mut found.repairs);
            found.value(mended);
        }
        for cookie in self.refused.clone() {
            let mended = self.mend_refusal(cookie, &mut found.repairs);
            found.value(mended);
        }
        let left = self.forget_those_that_left();
        found.value(left);
        match found.errors.is_empty() {
            true => Ok(found.repairs),
            false => Err(Incomplete { repairs: found.repairs, errors: found.errors }),
        }
    }

    /// The pods that the tables speak of, and that are neither refused, nor released with direct connections that are still
    /// open, nor anybody's of whom `is_known` knows.
    pub fn strangers(&self, is_known: impl Fn(u64) -> bool) -> Result<BTreeSet<u64>, KernelError> {
        let mut strangers = self.known()?;
        strangers.retain(|cookie| {
            !self.refused.contains(cookie) && !self.leaving.contains(cookie) && !is_known(*cookie)
        });
        Ok(strangers)
    }

    fn mend_pod(
        &mut self,
        cookie: u64,
        pod: &PodCapture,
        is_local_changed: bool,
        repairs: &mut Vec<Repair>,
    ) -> Result<(), KernelError> {
        let mut repaired = |what| repairs.push(Repair { what, detail: format!("netns cookie {cookie}") });
        if !self.tables.has_member(cookie)? {
            self.tables.add_member(cookie)?;
            repaired("member");
        }
        let device = self.device(cookie);
        let added = self.tables.add_exclusions(cookie, pod)?;
        if self.tables.set_pod(cookie, pod, device)? || is_local_changed {
            repaired("pod_entry");
        }
        if self.tables.remove_other_exclusions(cookie, pod)? || added {
            repaired("exclusion");
        }
        self.refused.remove(&cookie);
        Ok(())
    }

    fn mend_refusal(&mut self, cookie: u64, repairs: &mut Vec<Repair>) -> Result<(), KernelError> {
        if !self.tables.has_member(cookie)? {
            self.refuse(cookie)?;
            repairs.push(Repair { what: "member", detail: format!("netns cookie {cookie} (refused)") });
        }
        Ok(())
    }

    /// Takes the programs off the veths of released pods that no direct connection needs any more.
    fn forget_those_that_left(&mut self) -> Result<(), KernelError> {
        if self.leaving.is_empty() {
            return Ok(());
        }
        let busy = self.pods_with_flows()?;
        let idle: Vec<u64> = self.leaving.difference(&busy).copied().collect();
        idle.into_iter().map(|cookie| self.forget(cookie)).fold(Ok(()), Result::and)
    }

    /// The netns cookies of both ends of the direct connections that are open.
    pub(super) fn pods_with_flows(&self) -> Result<BTreeSet<u64>, KernelError> {
        let mut busy = BTreeSet::new();
        for flow in self.flows.all()? {
            busy.extend([flow.client_netns, flow.server_netns]);
        }
        Ok(busy)
    }

    /// Without its pin a map ends with this agent, and its successor would begin with an empty one.
    fn audit_pins(&mut self, found: &mut Found) {
        let mut repaired = |detail: String| found.repairs.push(Repair { what: "pin", detail });
        let mended = self.pins.mend().and_then(|were_gone| {
            if were_gone {
                repaired("the directory of the pins was gone".to_owned());
            }
            self.pinned.mend(&self.pins)
        });
        match mended {
            Ok(maps) => maps.into_iter().for_each(|map| repaired(format!("the map {map} was not pinned"))),
            Err(error) => found.errors.push(error),
        }
    }

    fn audit_links(&mut self, found: &mut Found) {
        for (hook, link) in &mut self.hooks {
            let mended = super::program(&self.ebpf, hook.program)
                .and_then(|program| link.mend(&program, &Place::Cgroup(&self.cgroup)));
            if let Some(wrong) = found.value(mended).flatten() {
                found.repairs.push(Repair { what: "link", detail: format!("{} {wrong}", hook.name) });
            }
        }
    }
}

impl Found {
    /// The value, or the error put down.
    fn value<T>(&mut self, result: Result<T, KernelError>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }
}
