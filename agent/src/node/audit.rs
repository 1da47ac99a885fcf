//! What the mesh says of each pod, against what kernel and workers hold: others have root on the node, too.
//!
//! What is missing is mended and counted. Until then the pod fails closed: without a listener its connections
//! are refused, and the hooks refuse a member of the mesh that has lost its entry.

use super::findings::{Answers, Finding, Findings};
use super::leave::Fate;
use super::pod::State;
use super::supervisor::{Event, Supervisor};
use crate::kernel::Incomplete;
use crate::mesh::PodName;
use crate::worker::Inspection;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::error::Elapsed;

impl Supervisor {
    /// Compares and mends what the node core can. Workers are asked meanwhile, and the shared tables looked through:
    /// [`Self::end_audit`] follows when that is done, so that a worker that is stuck, or a long table, holds up nobody.
    pub fn audit(&mut self, reply: Option<oneshot::Sender<Value>>) {
        let mut findings = Findings::default();
        self.follow_namespaces(&mut findings);
        self.audit_kernel(&mut findings);
        self.audit_strangers(&mut findings);
        self.audit_pods(&mut findings);
        self.audit_effects();
        self.audit_errors = findings.in_kernel.clone();
        let (inspections, found) = (self.inspect_workers(), self.look_for_leftovers());
        let events = self.events.clone();
        tokio::spawn(async move {
            let (inspections, found) = tokio::join!(inspections, found);
            // Nobody is there when the agent ends.
            let _ = events.send(Event::Audited(Box::new(Answers { findings, inspections, found, reply })));
        });
    }

    pub(super) fn end_audit(&mut self, answers: Answers) {
        let Answers { mut findings, inspections, found, reply } = answers;
        for (name, inspection) in inspections {
            match inspection {
                Ok(Some(inspection)) => findings.add(&name, inspection),
                // It has ended just now; what follows from that comes as an event.
                Ok(None) => {}
                Err(_) => findings.errors.push(format!("pod {name}: its worker does not answer")),
            }
        }
        if let Some(Err(e)) = found.map(|found| self.collect(found)) {
            findings.errors.push(e.to_string());
        }
        for (name, pod) in &self.pods {
            if let State::Failed { reason, .. } = &pod.state {
                findings.failed.push(format!("{name}: {reason}"));
            }
        }
        for finding in &findings.repairs {
            tracing::warn!(what = finding.what, "the audit repaired: {}", finding.detail);
            self.metrics.audit_repair(finding.what);
        }
        for error in &findings.errors {
            tracing::error!("the audit could not repair: {error}");
        }
        if let Some(reply) = reply {
            // Nobody waits for it any more when sending it fails.
            let _ = reply.send(json!(findings));
        }
    }

    /// A network namespace that was made anew under the path of another one is another pod's, whatever the mesh says; and one
    /// that has ended is nobody's.
    fn follow_namespaces(&mut self, findings: &mut Findings) {
        let unnoticed = self.unnoticed();
        if unnoticed.is_empty() {
            return self.visit_ledger();
        }
        for (name, fate) in unnoticed {
            if fate == Fate::Moved {
                let detail = format!("pod {name}: its network namespace is another");
                findings.repairs.push(Finding { what: "namespace", detail });
            }
        }
        self.reconcile();
    }

    fn audit_kernel(&mut self, findings: &mut Findings) {
        let repairs = match self.kernel.audit(&self.wanted()) {
            Ok(repairs) => repairs,
            Err(Incomplete { repairs, errors }) => {
                errors.into_iter().for_each(|e| findings.kernel_error(e.to_string()));
                repairs
            }
        };
        let repairs = repairs.into_iter().map(|repair| Finding { what: repair.what, detail: repair.detail });
        findings.repairs.extend(repairs);
    }

    /// Guards, paths, and the node's addresses.
    fn audit_pods(&mut self, findings: &mut Findings) {
        self.refresh_node_addresses();
        if let Some(error) = self.probes_failing.clone() {
            findings.kernel_error(error);
        }
        let names: Vec<PodName> = self.pods.keys().cloned().collect();
        for name in names {
            match self.mend(&name) {
                Ok(repairs) => findings.repairs.extend(
                    repairs
                        .into_iter()
                        .map(|wrong| Finding { what: "pod_link", detail: format!("pod {name}: {wrong}") }),
                ),
                Err(e) => findings.kernel_error(format!("pod {name}: {e}")),
            }
        }
        // A pod's path may be another's now, and its open connections are judged by that.
        self.place();
    }

    /// What was tried in vain before is tried again, without waiting for its time.
    fn audit_effects(&mut self) {
        if self.enforcement.is_some() || self.services.is_some() {
            self.enforce();
        }
        self.ledger.mend();
        self.runtime.hand_over();
    }

    /// Asks all workers at once.
    fn inspect_workers(
        &self,
    ) -> impl Future<Output = Vec<(PodName, Result<Option<Inspection>, Elapsed>)>> + Send + use<> {
        let serving = self.pods.iter().filter(|(_, pod)| pod.state == State::Serving);
        let asked = serving.filter_map(|(name, pod)| Some((name.clone(), pod.worker.as_ref()?.audit())));
        join_all(asked.map(async |(name, answer)| (name, answer.await)))
    }
}
