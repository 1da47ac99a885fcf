//! How a pod gets its worker.

use super::pod::{Fault, Pod};
use super::supervisor::{Event, Supervisor};
use crate::mesh::{PodName, Workload};
use crate::telemetry::WorkerMetrics;
use crate::worker::{CertificateState, DirectPath, Lifecycle, Signer, Worker, WorkerSpec};
use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

impl Supervisor {
    pub(super) fn new_pod(&self, workload: &Arc<Workload>) -> Pod {
        let metrics = Arc::new(WorkerMetrics::new(&workload.name, self.metrics.label_sets()));
        self.metrics.register(&workload.name, metrics.registry());
        let mut pod = Pod::new(workload, &self.rules_of_policies, self.incarnations, metrics);
        pod.was_captured = self.ledger.entries().any(|entry| entry.is_of(workload));
        pod
    }

    /// Starts the pod's worker.
    ///
    /// # Errors
    /// Why there is none, and who has to mend that.
    pub(super) fn spawn(
        &self,
        pod: &Pod,
    ) -> Result<(Worker, watch::Receiver<CertificateState>), (Fault, String)> {
        let netns = self.netns_of(&pod.workload)?;
        self.spawn_in(pod, netns).map_err(|reason| (Fault::Node, reason))
    }

    fn netns_of(&self, workload: &Workload) -> Result<PathBuf, (Fault, String)> {
        let sandbox = self.runtime.sandboxes.sandbox(workload);
        if let Some(reason) =
            sandbox.and_then(|sandbox| self.config.foreign_runtimes.refuses(&sandbox.handler))
        {
            return Err((Fault::Pod, reason));
        }
        let (fault, missing) = match self.config.objects.kube {
            _ if sandbox.is_some() => (
                Fault::Pod,
                "the container runtime names no network namespace for it, and does not say that it is on the host network: give \
                 the pod a RuntimeClass whose pods have one, or take the label pillion.dev/capture off the pod and its namespace",
            ),
            true => (
                Fault::Node,
                "nobody says where its network namespace is: give the agent --nri-socket, or --cri-socket where the container \
                 runtime has no NRI",
            ),
            false => (
                Fault::Pod,
                "it names no network namespace: add the annotation pillion.dev/netns with its path, \
                 for example /run/netns/shop",
            ),
        };
        workload.netns.clone().ok_or_else(|| (fault, missing.to_owned()))
    }

    fn spawn_in(
        &self,
        pod: &Pod,
        netns: PathBuf,
    ) -> Result<(Worker, watch::Receiver<CertificateState>), String> {
        let workload = &pod.workload;
        let spec = WorkerSpec {
            workload: workload.clone(),
            netns,
            settings: self.settings.clone(),
            sockets: self.kernel.sockets().map_err(|e| e.to_string())?,
            direct: DirectPath {
                mode: self.config.direct,
                placement: self.placement.subscribe(),
                flows: self.kernel.flows(),
                node_flows: self.kernel.node_flows(),
                verdicts: RefCell::new(self.kernel.verdicts().map_err(|e| e.to_string())?),
                samples: self.samples.clone(),
            },
            mesh: self.mesh.clone(),
            signer: Signer {
                identity: workload.identity.clone(),
                calls: self.signer.clone(),
                trust: self.authority.trust.clone(),
            },
            metrics: pod.metrics.clone(),
            access_log: self.access_log.clone(),
        };
        let (worker, lifecycle) =
            Worker::spawn(spec).map_err(|e| format!("its thread did not start: {e}"))?;
        let certificate = lifecycle.certificate.clone();
        self.watch(workload.name.clone(), pod.incarnation, lifecycle);
        Ok((worker, certificate))
    }

    /// Turns what a worker's thread does into events.
    fn watch(&self, pod: PodName, incarnation: u64, lifecycle: Lifecycle) {
        let (events, told) = (self.events.clone(), self.events.clone());
        let mut certificate = lifecycle.certificate;
        tokio::spawn(async move {
            while certificate.changed().await.is_ok() {
                let _ = told.send(Event::Certificate);
            }
        });
        tokio::spawn(async move {
            // A worker that cannot enter the pod says so when it fails to start.
            if let Ok(entered) = lifecycle.entered.await {
                let _ = events.send(Event::Entered { pod: pod.clone(), incarnation, entered });
            }
            // Sending fails only once the supervisor itself is gone.
            if let Ok(result) = lifecycle.started.await {
                let _ = events.send(Event::Started { pod: pod.clone(), incarnation, result });
            }
            let _: Result<(), _> = lifecycle.ended.await;
            let _ = events.send(Event::Ended { pod, incarnation });
        });
    }
}
