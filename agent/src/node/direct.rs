//! The node's part in the direct path: which pods have one, which policies are in force, and who is told.

use super::pending::Pending;
use super::pod::{Pod, State, capture};
use super::supervisor::Supervisor;
use crate::decide::{self, DirectMode, NotDirect};
use crate::direct::{self, Directory};
use crate::kernel::{self, Kernel, KernelError, NoPath, PathError};
use crate::mesh::PodName;
use crate::worker::Terms;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

/// Why a pod cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("its network namespace cannot be opened: {0}")]
    Netns(#[from] io::Error),
    #[error("{0}")]
    Kernel(#[from] KernelError),
}

impl Supervisor {
    /// Guards a serving pod, sees to its path, and captures it: in this order, so that nothing gets in or goes directly
    /// before it is guarded. Does nothing to a pod that does not serve.
    pub(super) fn establish(&mut self, name: &PodName) -> Result<(), CaptureError> {
        self.see_to(name, true).map(drop)
    }

    /// Looks after a pod's guard and path, and says what of them was there and wrong. What the tables say of the pod is
    /// the kernel side's to audit, unless it is direct now and was not, or the other way round, or a change is still to be
    /// made.
    pub(super) fn mend(&mut self, name: &PodName) -> Result<Vec<String>, CaptureError> {
        let is_unsettled = self.pods.get(name).is_some_and(|pod| pod.unsettled.is_some());
        let mended = self.see_to(name, is_unsettled);
        if let Some(pod) = self.pods.get_mut(name).filter(|pod| pod.state == State::Serving) {
            let held = mended.as_ref().map(drop).map_err(ToString::to_string);
            pod.unsettled = Pending::after(pod.unsettled.take(), held, &format!("pod {name}"));
        }
        mended
    }

    /// Guards a pod that its worker has entered and does not serve yet, or never will: its modes and policies hold from then
    /// on, and the kernel can tell when its network namespace is gone.
    ///
    /// # Errors
    /// Those of the kernel's side. It is tried again when the pod is refused, and before it is served.
    pub(super) fn guard_early(kernel: &mut Kernel, pod: &Pod) -> Result<(), KernelError> {
        let (Some(cookie), Some((netns, _))) = (pod.cookie, &pod.netns) else { return Ok(()) };
        kernel.guard_unserved(cookie, netns.as_fd(), &capture(pod, false), pod.unknown())
    }

    fn see_to(&mut self, name: &PodName, is_changed: bool) -> Result<Vec<String>, CaptureError> {
        let Some(pod) = self.pods.get_mut(name).filter(|pod| pod.state == State::Serving) else {
            return Ok(vec![]);
        };
        let Some(cookie) = pod.cookie else { return Ok(vec![]) };
        // As its worker has entered it: the path in the mesh may lead to another namespace by now.
        let netns = pod.netns.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?.0.clone();
        let unknown = pod.unknown();
        if is_changed {
            self.kernel.prepare(cookie, &capture(pod, pod.direct.is_ok()))?;
        }
        let guard = self.kernel.guard(cookie, netns.as_fd(), unknown)?;
        let path = own_path(&mut self.kernel, self.config.direct, pod, cookie, netns.as_fd());
        let direct = path.as_ref().map(|_| ()).map_err(Clone::clone);
        let is_changed = is_changed || direct != pod.direct;
        if direct != pod.direct {
            match &direct {
                Ok(()) => tracing::info!(pod = %name, "its connections within the node are direct"),
                Err(reason) => {
                    tracing::info!(pod = %name, "its connections within the node are not direct: {reason}")
                }
            }
            pod.direct = direct;
        }
        let wanted = capture(pod, pod.direct.is_ok());
        if is_changed {
            let excesses = wanted.excesses();
            for excess in excesses.iter().filter(|excess| !pod.excesses.contains(excess)) {
                tracing::warn!(pod = %name, "{excess}");
            }
            pod.excesses = excesses;
            self.kernel.capture(cookie, &wanted)?;
            (pod.is_established, pod.was_captured, pod.is_closed) = (true, true, false);
        }
        if pod.direct.is_err() {
            self.kernel.give_up_path(cookie, &wanted)?;
        }
        pod.metrics.path().set_direct(pod.direct.as_ref().err().map(NotDirect::reason));
        let wrong = [("guard", guard), ("path", path.ok().flatten())];
        Ok(wrong.into_iter().filter_map(|(what, wrong)| Some(format!("its {what} {}", wrong?))).collect())
    }

    /// Puts the policies of the mesh in force, in the kernel first: from then on no connection begins under others, so
    /// that workers find all that have. What fails is tried again until it holds; open connections are judged none the less,
    /// and once more when it does.
    pub(super) fn enforce(&mut self) {
        let mesh = self.mesh.borrow().clone();
        let services = decide::services_of_node(&mesh, &self.config.node);
        for (namespace, count) in &services.beyond_share {
            if self.services_beyond_share.get(namespace) != Some(count) {
                tracing::warn!(
                    namespace,
                    count,
                    "Services beyond the namespace's share of the kernel's tables: workers lead them"
                );
            }
        }
        self.services_beyond_share = services.beyond_share;
        let told = self.kernel.set_services(&services.endpoints);
        let told = told.map_err(|e| format!("the hooks cannot be told of all Services: {e}"));
        self.services = Pending::after(self.services.take(), told, "Services");
        self.place();
    }

    /// Tells workers and kernel how the node's pods are captured now, and has what is open judged if any decision may be
    /// another. To be called after every change of `pods`. What fails is tried again until it holds; open connections are
    /// judged none the less, and once more when it does.
    pub(super) fn place(&mut self) {
        let policy = self.mesh.borrow().policy;
        let pods = self.pods.values().filter_map(|pod| Some((pod.cookie?, pod.placed()))).collect();
        let placement = Arc::new(self.placement.borrow().next(policy, pods));
        let permit = |source, destination, port| decide::direct(&placement, source, destination, port).ok();
        let enforced = self.kernel.enforce(placement.generation(), permit);
        let enforced = enforced.map_err(|e| format!("new policies cannot be put in force: {e}"));
        let is_in_force = enforced.is_ok();
        self.enforcement = Pending::after(self.enforcement.take(), enforced, "policies");
        let generation = placement.generation();
        self.placement.send_replace(placement);
        if self.judged != generation {
            self.judge();
            if is_in_force {
                self.judged = generation;
            }
        }
    }

    /// Has all workers look at what is open.
    fn judge(&self) {
        let terms = self.terms();
        // A worker whose pod is not placed yet is told when it is.
        let placed = self.pods.values().filter(|pod| pod.cookie.is_some());
        for worker in placed.filter_map(|pod| pod.worker.as_ref()) {
            worker.judge(terms.clone());
        }
    }

    /// Has a new worker look at what is open: policies may have changed while there was none.
    pub(super) fn judge_pod(&self, name: &PodName) {
        if let Some(worker) = self.pods.get(name).and_then(|pod| pod.worker.as_ref()) {
            worker.judge(self.terms());
        }
    }

    fn terms(&self) -> Arc<Terms> {
        Arc::new(Terms { direct: self.config.direct, node_addresses: self.node_addresses.clone() })
    }

    /// Tells the recorder of direct connections who is who: for the first time once all pods are known that an earlier
    /// agent may have captured.
    pub(super) fn publish_directory(&self) {
        let is_unknown = |pod: &Pod| pod.state == State::Starting && pod.cookie.is_none();
        let is_early = !self.runtime.knows_captured() || self.pods.values().any(is_unknown);
        if self.directory.borrow().is_none() && is_early {
            return;
        }
        let pods = self.pods.values().filter_map(|pod| {
            let who = direct::Pod { workload: pod.workload.clone(), metrics: pod.metrics.clone() };
            Some((pod.cookie?, who))
        });
        let directory = Directory::new(self.mesh.borrow().clone(), pods.collect());
        self.directory.send_replace(Some(Arc::new(directory)));
    }

    /// The kubelet probes from the node's addresses, which may change. They are asked for only where probes are known by
    /// them. What fails costs probes under STRICT and policies, and is told by readiness; nothing else depends on it.
    pub(super) fn refresh_node_addresses(&mut self) {
        if !self.kernel.probes_by_address() {
            return;
        }
        let refreshed = kernel::node_addresses().and_then(|addresses| {
            self.node_addresses = addresses;
            self.kernel.set_node_addresses(&self.node_addresses)
        });
        self.probes_failing = refreshed.err().map(|e| {
            format!(
                "the node's addresses, which the kubelet probes pods from, cannot be told to the guards: {e}"
            )
        });
    }
}

/// Leads a pod's direct connections, if nothing stands against it. Says what was wrong with the programs that were
/// there.
fn own_path(
    kernel: &mut Kernel,
    mode: DirectMode,
    pod: &Pod,
    cookie: u64,
    netns: BorrowedFd,
) -> Result<Option<&'static str>, NotDirect> {
    decide::path(&pod.workload, mode)?;
    let device = pod.ready.as_ref().map(|ready| ready.device.clone());
    let device = device.unwrap_or_else(|| Err(NoPath::Veth("its worker does not serve".to_owned())));
    let owned = device.map_err(PathError::from).and_then(|device| kernel.own_path(cookie, netns, device));
    owned.map_err(NotDirect::from)
}
