//! Pods that are to be in the mesh and cannot be served: the hooks refuse them, and whoever looks at them hears why.

use super::netns::NetnsId;
use super::pending;
use super::pod::{CERTIFICATE_PATIENCE, Fault, Pod, State};
use super::supervisor::Supervisor;
use crate::cluster::Happening;
use crate::kernel::{self, KernelError};
use crate::mesh::PodName;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Instant;

impl Supervisor {
    /// No worker: refuse the pod's connections, say why, and try again later.
    pub(super) fn fail(&mut self, pod: &mut Pod, reason: String, fault: Fault) {
        let delay = pending::delay(pod.failures);
        if let Some(worker) = pod.worker.take() {
            worker.stop();
        }
        (pod.is_established, pod.unsettled) = (false, None);
        if pod.cookie.is_none() && fault == Fault::Node {
            Self::look_into(pod);
        }
        if let Some(cookie) = pod.cookie.filter(|cookie| !self.serves_another(&pod.workload.name, *cookie))
            && let Err(e) = self.kernel.refuse(cookie).and_then(|()| Self::guard_early(&mut self.kernel, pod))
        {
            tracing::error!(pod = %pod.workload.name, "the hooks cannot be told to refuse its connections: {e}");
        }
        // What fails again and again is told once.
        match (pod.last_failure.as_ref() == Some(&reason), self.is_in_the_mesh(pod)) {
            (true, _) => tracing::debug!(pod = %pod.workload.name, "still not captured: {reason}"),
            (false, true) => {
                tracing::error!(pod = %pod.workload.name, "not captured, its connections are refused: {reason}");
            }
            (false, false) => {
                tracing::error!(pod = %pod.workload.name, "not captured, its connections are plain: {reason}");
            }
        }
        self.tell(&pod.workload, Happening::CaptureFailed(reason.clone()));
        pod.last_failure = Some(reason.clone());
        pod.failures += 1;
        pod.state = State::Failed { reason, fault, retry_at: Instant::now() + delay };
    }

    /// Learns the network namespace of a pod that its worker has not entered, so that the pod can be refused all the same. What
    /// kept the worker out may keep this out, too.
    fn look_into(pod: &mut Pod) {
        let looked = pod.workload.netns.as_deref().map(|path| {
            let (cookie, netns) = kernel::netns_at(path)?;
            Ok((cookie, NetnsId::of(&netns)?, netns))
        });
        match looked {
            Some(Ok((cookie, id, netns))) => {
                (pod.cookie, pod.netns) = (Some(cookie), Some((Arc::new(netns), id)));
            }
            Some(Err::<_, io::Error>(e)) => {
                tracing::debug!(pod = %pod.workload.name, "its network namespace cannot be looked into: {e}");
            }
            None => {}
        }
    }

    /// Whether the hooks capture or refuse the pod, or another one in its network namespace. A pod whose namespace neither this
    /// agent has entered nor an earlier one is neither captured nor refused.
    pub(super) fn is_in_the_mesh(&self, pod: &Pod) -> bool {
        let entered = self.ledger.entries().filter(|entry| entry.is_of(&pod.workload));
        let mut cookies = pod.cookie.into_iter().chain(entered.map(|entry| entry.cookie));
        cookies.any(|cookie| self.kernel.is_in_the_mesh(cookie).unwrap_or(false))
    }

    /// Has the hooks refuse pods that cannot get a certificate: they are to be in the mesh, and not served.
    pub(super) fn close_waiting(&mut self, now: Instant) {
        let serving = self.pods.values().filter(|pod| pod.state == State::Serving);
        let served: HashSet<u64> = serving.filter_map(|pod| pod.cookie).collect();
        for pod in self.pods.values_mut() {
            let Some(cookie) = pod.cookie.filter(|cookie| !served.contains(cookie)) else { continue };
            let is_failing = || pod.certificate().is_some_and(|certificate| certificate.failing.is_some());
            let is_late = || pod.starting_since + CERTIFICATE_PATIENCE <= now;
            let waits = pod.state == State::Starting && !pod.is_established && !pod.is_closed;
            if !waits || !(is_failing() || is_late()) {
                continue;
            }
            match self.kernel.refuse(cookie).and_then(|()| Self::guard_early(&mut self.kernel, pod)) {
                Ok(()) => pod.is_closed = true,
                // The next look tries again.
                Err(e) => {
                    pod.starting_since = now;
                    tracing::error!(pod = %pod.workload.name, "the hooks cannot be told to refuse its connections: {e}");
                }
            }
        }
    }

    /// It is tried again when the pod is refused, and before it is served.
    pub(super) fn tell_unguarded(pod: &PodName, guarded: Result<(), KernelError>) {
        if let Err(e) = guarded {
            tracing::error!(%pod, "it cannot be guarded before it is served: {e}");
        }
    }
}
