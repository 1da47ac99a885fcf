//! What is not as it should be on this node, for readiness, metrics and people.

use super::authority::date;
use super::ledger::Entry;
use super::netns::Leads;
use super::pod::{Fault, State};
use super::runtime::Link;
use super::supervisor::Supervisor;
use crate::cluster::stands_still;
use crate::mesh::{PodName, Workload};
use serde::Serialize;
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// Something that is not as it should be.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// The label of `pillion_degraded`.
    pub reason: &'static str,
    pub detail: String,
    /// Whether the node is not ready for it: pods that are to be captured are not protected as they should be, or not under
    /// the rules that are in force elsewhere; or this agent does not serve what an earlier one did.
    pub is_unready: bool,
}

/// All reasons there are: a series that is 0 is there, too.
pub const REASONS: [&str; 12] = [
    "pod_plain",
    "pod_refused",
    "pod_orphaned",
    "pod_unsettled",
    "over_share",
    "policies",
    "judgement",
    "services",
    "kernel",
    "state_dir",
    "watch",
    "mesh_behind",
];

/// A pod's object may have addresses this long before the container runtime has told of the pod.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(10);

/// A pod, or the namespace of one, that is still there and that nobody speaks of.
#[derive(Debug, Serialize)]
pub struct OrphanDump {
    pub pod: Option<PodName>,
    pub netns: Option<std::path::PathBuf>,
    pub netns_cookie: Option<u64>,
    /// Whether its worker serves on; else its connections are refused.
    pub is_served: bool,
    pub why: String,
}

impl Supervisor {
    pub(super) fn troubles(&self) -> Vec<Trouble> {
        let mut troubles = vec![];
        let mut add = |reason, is_unready, detail| troubles.push(Trouble { reason, detail, is_unready });
        for (name, pod) in &self.pods {
            if let State::Failed { reason, fault, .. } = &pod.state {
                let is_nodes = *fault == Fault::Node;
                match self.is_in_the_mesh(pod) {
                    true => {
                        let detail = format!("pod {name}, whose connections are refused: {reason}");
                        add("pod_refused", pod.was_captured && is_nodes, detail);
                    }
                    false => {
                        let detail = format!(
                            "pod {name}, whose connections are neither captured nor refused: {reason}"
                        );
                        add("pod_plain", is_nodes && !self.says_itself_where_it_is(&pod.workload), detail);
                    }
                }
            }
            if pod.is_closed && pod.state == State::Starting {
                let detail = format!("pod {name}, whose connections are refused: it has no certificate yet");
                add("pod_refused", false, detail);
            }
            if let (State::Serving, Some(worker)) = (&pod.state, &pod.worker)
                && let Err(why) = worker.judged()
            {
                let detail =
                    format!("open connections of pod {name}, which the policies of now may deny: {why}");
                add("judgement", true, detail);
            }
            if let Some(pending) = &pod.unsettled {
                add("pod_unsettled", true, format!("pod {name}: {}", pending.reason));
            }
            for excess in &pod.excesses {
                add("over_share", false, format!("pod {name}: {excess}"));
            }
        }
        if matches!(self.runtime.link, Link::There(_)) {
            let is_late = |since: &Instant| since.elapsed() >= RUNTIME_PATIENCE;
            for (name, _) in self.unplaced.iter().filter(|(_, since)| is_late(since)) {
                let detail = format!(
                    "pod {name}, whose connections are neither captured nor refused: its object says that it runs here, and the \
                     container runtime says nothing of its sandbox"
                );
                add("pod_plain", true, detail);
            }
        }
        for orphan in self.orphans() {
            let who = match (&orphan.pod, orphan.netns_cookie) {
                (Some(pod), _) => format!("pod {pod}"),
                (None, cookie) => format!("the pod with the netns cookie {}", cookie.unwrap_or_default()),
            };
            add("pod_orphaned", false, format!("{who}: {}", orphan.why));
        }
        for (resource, since, why) in self.unheard(OffsetDateTime::now_utc()) {
            let why = why.unwrap_or_else(|| "it is made anew again and again and brings nothing".to_owned());
            add(
                "watch",
                true,
                format!("news of {resource}, of which none has come since {}: {why}", date(since)),
            );
        }
        if let Some(since) = self.manifests.borrow().behind(OffsetDateTime::now_utc()) {
            let detail =
                format!("a mesh of what has been heard since {}: it is still being made", date(since));
            add("mesh_behind", true, detail);
        }
        for (reason, pending) in [("policies", &self.enforcement), ("services", &self.services)] {
            if let Some(pending) = pending {
                add(reason, true, pending.reason.clone());
            }
        }
        for (namespace, count) in &self.services_beyond_share {
            let detail = format!(
                "namespace {namespace}: {count} ports of its Services are beyond its share of the kernel's tables, and workers lead them"
            );
            add("over_share", false, detail);
        }
        for error in self.audit_errors.iter().chain(&self.ledger_errors) {
            add("kernel", true, format!("the kernel's side, which the audit could not mend: {error}"));
        }
        for error in self.ledger.unwritten().into_iter().chain(self.runtime.unwritten()) {
            add("state_dir", false, error.to_owned());
        }
        troubles
    }

    /// Whether the path to the pod's network namespace is the object's own word, as in a manifest directory, which may be wrong.
    fn says_itself_where_it_is(&self, pod: &Workload) -> bool {
        let sandbox = self.runtime.sandboxes.sandbox(pod);
        pod.netns.is_some() && sandbox.is_none_or(|sandbox| sandbox.netns.is_none())
    }

    /// The resources of which the API server says nothing any more, since when, and why.
    fn unheard(&self, now: OffsetDateTime) -> Vec<(&'static str, OffsetDateTime, Option<String>)> {
        let manifests = self.manifests.borrow();
        let still = manifests.watches.iter().filter_map(|watch| {
            Some((watch.resource, stands_still(watch.failing_since, now)?, watch.error.clone()))
        });
        still.collect()
    }

    /// Pods and network namespaces that are still there, and that nobody speaks of.
    pub(super) fn orphans(&self) -> Vec<OrphanDump> {
        let served = self.pods.iter().filter_map(|(name, pod)| {
            let orphan = pod.orphan.as_ref().filter(|orphan| orphan.is_told)?;
            Some(OrphanDump {
                pod: Some(name.clone()),
                netns: pod.workload.netns.clone(),
                netns_cookie: pod.cookie,
                is_served: true,
                why: orphan.why.to_owned(),
            })
        });
        // A namespace to which no path leads any more is about to end.
        let is_there = |entry: &Entry| matches!(entry.leads(), Leads::There | Leads::Unknown);
        let unclaimed = self.unclaimed().into_iter().filter(|entry| self.kernel.is_refused(entry.cookie));
        let refused = unclaimed.filter(is_there).map(|entry| OrphanDump {
            pod: Some(entry.pod),
            netns: Some(entry.netns),
            netns_cookie: Some(entry.cookie),
            is_served: false,
            why: "no worker of this agent is in its network namespace, which is still there".to_owned(),
        });
        let strangers = self.strangers.iter().map(|cookie| OrphanDump {
            pod: None,
            netns: None,
            netns_cookie: Some(*cookie),
            is_served: false,
            why: "an earlier agent has captured it, and no object says which pod it is".to_owned(),
        });
        served.chain(refused).chain(strangers).collect()
    }

    /// Tells people of pods that have been orphans for long enough to be none that just end.
    pub(super) fn tell_of_orphans(&mut self, now: Instant) {
        for (name, pod) in &mut self.pods {
            let Some(orphan) = pod.orphan.as_mut() else { continue };
            if orphan.tell_at().is_some_and(|at| at <= now) {
                orphan.is_told = true;
                tracing::warn!(
                    pod = %name,
                    "{}, and its network namespace is still there: it stays captured until that ends",
                    orphan.why
                );
            }
        }
    }
}
