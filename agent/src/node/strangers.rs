//! Pods that the kernel knows, and nobody else: an earlier agent has captured them, and has not written them down.

use super::findings::{Finding, Findings};
use super::supervisor::Supervisor;
use crate::kernel::{KernelError, NetnsLife, netns_cookie_at};
use std::collections::{BTreeSet, HashSet};

impl Supervisor {
    /// Forgets strangers that are gone or released, and refuses the others. Does nothing before all pods are known.
    pub(super) fn audit_strangers(&mut self, findings: &mut Findings) {
        if !self.knows_all() {
            return;
        }
        let claimed: HashSet<u64> = self.pods.values().filter_map(|pod| pod.cookie).collect();
        let is_known = |cookie| claimed.contains(&cookie) || self.ledger.has(cookie);
        self.strangers.retain(|cookie| !is_known(*cookie));
        let strangers = match self.kernel.strangers(is_known) {
            Ok(found) => found.union(&self.strangers).copied().collect::<BTreeSet<u64>>(),
            Err(e) => return findings.kernel_error(e.to_string()),
        };
        if strangers.is_empty() {
            return;
        }
        let uncaptured = self.uncaptured_cookies();
        for cookie in strangers {
            match self.look_at_stranger(cookie, &uncaptured) {
                Ok(Some(why)) => {
                    let detail = format!("netns cookie {cookie}: {why}");
                    findings.repairs.push(Finding { what: "stale_entry", detail });
                }
                Ok(None) => {}
                Err(e) => findings.kernel_error(format!("netns cookie {cookie}: {e}")),
            }
        }
    }

    /// Says why the stranger is forgotten, if it is.
    fn look_at_stranger(
        &mut self,
        cookie: u64,
        uncaptured: &BTreeSet<u64>,
    ) -> Result<Option<&'static str>, KernelError> {
        let why = if !self.kernel.is_in_the_mesh(cookie)? {
            "an earlier agent has released it"
        } else if self.kernel.netns_life(cookie)? == NetnsLife::Gone {
            "its network namespace is gone"
        } else if uncaptured.contains(&cookie) {
            "its object says that it is not to be captured"
        } else {
            if self.strangers.insert(cookie) {
                tracing::error!(
                    netns_cookie = cookie,
                    "an earlier agent has captured a pod that nobody speaks of: it is refused until its network namespace ends"
                );
            }
            return match self.kernel.is_refused(cookie) {
                true => Ok(None),
                false => self.kernel.refuse(cookie).map(|()| None),
            };
        };
        self.kernel.forget(cookie)?;
        self.strangers.remove(&cookie);
        Ok(Some(why))
    }

    /// The netns cookies of this node's pods whose objects say that they are not to be captured.
    fn uncaptured_cookies(&self) -> BTreeSet<u64> {
        let mesh = self.mesh.borrow().clone();
        let here = mesh.workloads.values().filter(|pod| pod.node == self.config.node && !pod.captured);
        let places = here.filter_map(|pod| self.runtime.place(pod)?.netns.clone());
        places.filter_map(|netns| netns_cookie_at(&netns).ok()).collect()
    }
}
