//! Wants and has: which pods should have a worker, which do, and what to do about the difference.

use super::authority::Authority;
use super::pod::{Pod, State, capture};
use super::runtime::Runtime;
use crate::cli::Run;
use crate::cluster::{Happening, PodEvent, PodEvents};
use crate::decide::{NotDirect, Placement};
use crate::direct::{Directory, Samples};
use crate::kernel::{Kernel, PodCapture};
use crate::manifest::ManifestStatus;
use crate::mesh::{Mesh, PodName, Workload};
use crate::telemetry::{AccessLog, NodeMetrics, WorkerMetrics};
use crate::worker::{
    CertificateState, DirectPath, Lifecycle, Ready, Settings, SignCall, Signer, StartError, Worker,
    WorkerSpec,
};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// How long a pod that left the mesh still takes connections of peers that have not heard of it: the mesh
/// applies changes within a second, and agents do so one after the other.
pub(super) const RETIRE_GRACE: Duration = Duration::from_secs(3);

/// A worker that cannot start is tried again after this long, doubling up to the bound.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(15);

pub struct Supervisor {
    pub(super) config: Arc<Run>,
    pub(super) kernel: Kernel,
    pub(super) pods: HashMap<PodName, Pod>,
    pub(super) mesh: watch::Receiver<Arc<Mesh>>,
    pub(super) manifests: watch::Receiver<ManifestStatus>,
    pub(super) metrics: Arc<NodeMetrics>,
    access_log: Option<AccessLog>,
    settings: Arc<Settings>,
    signer: mpsc::Sender<SignCall>,
    pub(super) authority: Authority,
    events: mpsc::UnboundedSender<Event>,
    incarnations: u64,
    /// Who is who, for the recorder of direct connections.
    pub(super) directory: watch::Sender<Option<Arc<Directory>>>,
    samples: Samples,
    /// Where to tell of pods, where there is anybody.
    pod_events: Option<PodEvents>,
    /// The pods as the kernel has them captured, for workers to decide by.
    pub(super) placement: watch::Sender<Arc<Placement>>,
    /// The generation of the placement by which open connections were judged last.
    pub(super) judged: u64,
    pub(super) node_addresses: BTreeSet<IpAddr>,
    /// Why probes that are known by the node's addresses may be refused.
    pub(super) probes_failing: Option<String>,
    /// When connections that are over were last looked for.
    pub(super) collected: Option<Instant>,
    pub(super) runtime: Runtime,
}

/// What a worker's thread has done.
pub enum Event {
    Started {
        pod: PodName,
        incarnation: u64,
        result: Result<Ready, StartError>,
    },
    Ended {
        pod: PodName,
        incarnation: u64,
    },
    /// A pod's certificate, or why it has none, is another: what the node waits for may be, too.
    Certificate,
}

/// What a supervisor is made of.
pub struct Parts {
    pub config: Arc<Run>,
    pub kernel: Kernel,
    pub mesh: watch::Receiver<Arc<Mesh>>,
    pub manifests: watch::Receiver<ManifestStatus>,
    pub metrics: Arc<NodeMetrics>,
    pub access_log: Option<AccessLog>,
    pub signer: mpsc::Sender<SignCall>,
    pub authority: Authority,
    pub directory: watch::Sender<Option<Arc<Directory>>>,
    pub samples: Samples,
    pub pod_events: Option<PodEvents>,
}

impl Supervisor {
    pub fn new(parts: Parts) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (events, inbox) = mpsc::unbounded_channel();
        let config = parts.config;
        let runtime = Runtime::new(&config);
        let settings = Arc::new(Settings {
            connect_timeout: config.connect_timeout,
            cert_lifetime: config.cert_lifetime,
            trust_domains: config.trust.trust_domains(),
            hbone_congestion: config.hbone_congestion.clone(),
            metrics_idle: config.metrics_idle,
        });
        let supervisor = Self {
            config,
            kernel: parts.kernel,
            pods: HashMap::new(),
            mesh: parts.mesh,
            manifests: parts.manifests,
            metrics: parts.metrics,
            access_log: parts.access_log,
            settings,
            signer: parts.signer,
            authority: parts.authority,
            events,
            incarnations: 0,
            directory: parts.directory,
            samples: parts.samples,
            pod_events: parts.pod_events,
            placement: watch::Sender::default(),
            judged: 0,
            node_addresses: BTreeSet::new(),
            probes_failing: None,
            collected: None,
            runtime,
        };
        (supervisor, inbox)
    }

    /// Brings workers and kernel in line with the mesh as it is now.
    pub fn reconcile(&mut self) {
        let mesh = self.mesh.borrow_and_update().clone();
        // Nobody knows yet who is in the mesh: what an earlier agent left in the kernel stays.
        if mesh.generation == 0 {
            return;
        }
        let wanted: Vec<Arc<Workload>> =
            mesh.captured_on(&self.config.node).filter_map(|workload| self.runtime.place(workload)).collect();
        let here: HashMap<&PodName, &Arc<Workload>> = wanted.iter().map(|now| (&now.name, now)).collect();
        let changed: Vec<PodName> = self
            .pods
            .iter()
            .filter(|(name, pod)| !here.get(name).is_some_and(|now| pod.is(now)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in changed {
            let pod = &self.pods[&name];
            match mesh.workloads.get(&name).and_then(|now| self.runtime.place(now)) {
                Some(now) if pod.is(&now) => self.retire(&name),
                Some(now) if now.captured && now.netns == pod.workload.netns => self.replace(&name, &now),
                _ => self.remove(&name),
            }
        }
        for workload in &wanted {
            self.want(workload);
        }
        self.enforce();
        self.publish_directory();
        self.metrics.set_captured_pods(self.serving());
    }

    pub fn on_event(&mut self, event: Event) {
        match event {
            Event::Started { pod, incarnation, result } => {
                if self.is_current(&pod, incarnation) {
                    self.on_started(&pod, result);
                }
            }
            Event::Ended { pod, incarnation } => {
                if self.is_current(&pod, incarnation) {
                    self.on_ended(&pod);
                }
            }
            Event::Certificate => {}
        }
        self.metrics.set_captured_pods(self.serving());
    }

    /// Starts again what failed and has waited long enough; when to look again, at this or at what the node waits for.
    pub fn retry(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let due = |pod: &&Pod| pod.retry_at().is_some_and(|at| at <= now);
        let due: Vec<Arc<Workload>> =
            self.pods.values().filter(due).map(|pod| pod.workload.clone()).collect();
        for workload in due {
            self.start(&workload);
        }
        let others = self.next_overdue().into_iter().chain(self.runtime.next_deadline());
        self.pods.values().filter_map(Pod::retry_at).chain(others).min()
    }

    /// Has every pod leave the mesh.
    pub fn release(&mut self) {
        for name in self.pods.keys().cloned().collect::<Vec<_>>() {
            self.retire(&name);
        }
    }

    /// Tells every worker to finish; new connections are refused from now on.
    pub fn drain(&mut self) {
        self.pods.retain(|_, pod| pod.worker.is_some());
        for worker in self.pods.values().filter_map(|pod| pod.worker.as_ref()) {
            worker.drain(self.config.drain_timeout);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// While draining, a worker that has ended is not started again. True when none is left.
    pub fn forget_ended(&mut self, event: Event) -> bool {
        if let Event::Ended { pod: name, incarnation } = event
            && self.is_current(&name, incarnation)
        {
            self.forget(&name);
        }
        self.is_empty()
    }

    /// What the hooks should capture, or `None` while that is not known: a pod whose worker is on its way up may
    /// have entries of an earlier agent that nobody has claimed yet. Failed pods are refused, which the kernel
    /// side remembers by itself.
    pub(super) fn wanted(&self) -> Option<HashMap<u64, PodCapture>> {
        if self.mesh.borrow().generation == 0 || !self.runtime.is_known {
            return None;
        }
        let captured = self.pods.values().filter(|pod| matches!(pod.state, State::Starting | State::Serving));
        captured.map(|pod| Some((pod.cookie?, capture(pod, pod.direct.is_ok())))).collect()
    }

    /// The pod should be captured: see to it, whatever it is now.
    fn want(&mut self, workload: &Arc<Workload>) {
        let Some(pod) = self.pods.get_mut(&workload.name) else {
            return self.start(workload);
        };
        let changed = pod.set_workload(workload);
        match (&pod.state, &pod.worker) {
            (State::Retiring, Some(worker)) => {
                worker.serve();
                pod.state = State::Serving;
                self.capture(&workload.name);
            }
            (State::Serving, _) if changed => self.capture(&workload.name),
            _ => {}
        }
    }

    fn start(&mut self, workload: &Arc<Workload>) {
        let before = self.pods.remove(&workload.name);
        self.incarnations += 1;
        let mut pod = match before {
            Some(mut before) => {
                before.set_workload(workload);
                before.incarnation = self.incarnations;
                before.state = State::Starting;
                before.worker = None;
                before
            }
            None => self.new_pod(workload),
        };
        match self.spawn(&pod) {
            Ok((worker, certificate)) => {
                (pod.worker, pod.certificate) = (Some(worker), Some(certificate));
            }
            Err(reason) => self.fail(&mut pod, reason),
        }
        self.pods.insert(workload.name.clone(), pod);
    }

    fn new_pod(&self, workload: &Arc<Workload>) -> Pod {
        let metrics = Arc::new(WorkerMetrics::new(&workload.name));
        self.metrics.register(&workload.name, metrics.registry());
        Pod::new(workload, self.incarnations, metrics)
    }

    fn spawn(&self, pod: &Pod) -> Result<(Worker, watch::Receiver<CertificateState>), String> {
        let workload = &pod.workload;
        let handler = self.runtime.sandboxes.sandbox(workload).map_or("", |sandbox| &sandbox.handler);
        if let Some(reason) = self.config.foreign_runtimes.refuses(handler) {
            return Err(reason);
        }
        let netns = workload.netns.clone().ok_or(match self.config.objects.kube {
            true => {
                "nobody says where its network namespace is: give the agent --nri-socket, or --cri-socket where the container \
                 runtime has no NRI"
            }
            false => {
                "it names no network namespace: add the annotation pillion.dev/netns with its path, \
                 for example /run/netns/shop"
            }
        })?;
        let spec = WorkerSpec {
            name: workload.name.clone(),
            netns,
            addresses: workload.addresses.clone(),
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
            // Both fail only once the supervisor itself is gone.
            if let Ok(result) = lifecycle.started.await {
                let _ = events.send(Event::Started { pod: pod.clone(), incarnation, result });
            }
            let _: Result<(), _> = lifecycle.ended.await;
            let _ = events.send(Event::Ended { pod, incarnation });
        });
    }

    fn is_current(&self, pod: &PodName, incarnation: u64) -> bool {
        self.pods.get(pod).is_some_and(|pod| pod.incarnation == incarnation)
    }

    fn on_started(&mut self, name: &PodName, result: Result<Ready, StartError>) {
        let Some(mut pod) = self.pods.remove(name) else { return };
        let had_failed = pod.last_failure.is_some();
        match result {
            Ok(ready) => {
                pod.cookie = Some(ready.netns_cookie);
                (pod.failures, pod.last_failure) = (0, None);
                if pod.state == State::Starting {
                    pod.state = State::Serving;
                }
                tracing::info!(pod = %name, netns_cookie = ready.netns_cookie, "captured");
                pod.ready = Some(ready);
            }
            Err(StartError { netns_cookie, error }) => {
                pod.cookie = netns_cookie.or(pod.cookie);
                self.fail(&mut pod, error.to_string());
            }
        }
        let is_serving = pod.state == State::Serving;
        self.pods.insert(name.clone(), pod);
        self.publish_directory();
        if is_serving {
            self.capture(name);
            self.place();
            self.judge_pod(name);
        }
        if let Some(pod) = self.pods.get(name).filter(|pod| had_failed && pod.state == State::Serving) {
            self.tell(&pod.workload, Happening::Captured);
        }
    }

    /// Tells whoever looks at the pod's object.
    fn tell(&self, workload: &Workload, what: Happening) {
        if let Some(events) = &self.pod_events {
            events.tell(PodEvent { pod: workload.name.clone(), uid: workload.uid.clone(), what });
        }
    }

    /// The thread is gone. That was asked for, or it is a bug: then the pod gets a new worker, at once if this one
    /// had served, and its connections are refused until that serves.
    fn on_ended(&mut self, name: &PodName) {
        let Some(pod) = self.pods.get(name) else { return };
        match pod.state {
            State::Retiring => self.forget(name),
            State::Failed { .. } => {}
            State::Serving => {
                tracing::error!(pod = %name, "the worker ended by itself; starting another");
                let workload = pod.workload.clone();
                self.start(&workload);
            }
            State::Starting => {
                if let Some(mut pod) = self.pods.remove(name) {
                    self.fail(&mut pod, "its worker ended before it served".to_owned());
                    self.pods.insert(name.clone(), pod);
                }
            }
        }
    }

    /// No worker: refuse the pod's connections, say why, and try again later.
    fn fail(&mut self, pod: &mut Pod, reason: String) {
        let delay = (FIRST_RETRY * (1 << pod.failures.min(10))).min(LONGEST_RETRY);
        // What fails again and again is told once.
        match pod.last_failure.as_ref() == Some(&reason) {
            true => tracing::debug!(pod = %pod.workload.name, "still not captured: {reason}"),
            false => {
                tracing::error!(pod = %pod.workload.name, "not captured, its connections are refused: {reason}");
            }
        }
        self.tell(&pod.workload, Happening::CaptureFailed(reason.clone()));
        pod.last_failure = Some(reason.clone());
        pod.failures += 1;
        if let Some(worker) = pod.worker.take() {
            worker.stop();
        }
        pod.state = State::Failed { reason, retry_at: Instant::now() + delay };
        if let Some(cookie) = pod.cookie
            && let Err(e) = self.kernel.refuse(cookie)
        {
            tracing::error!(pod = %pod.workload.name, "the hooks cannot be told to refuse its connections: {e}");
        }
    }

    /// A pod that cannot be guarded is not served.
    fn capture(&mut self, name: &PodName) {
        if let Err(e) = self.establish(name)
            && let Some(mut pod) = self.pods.remove(name)
        {
            self.fail(&mut pod, format!("it cannot be guarded and captured: {e}"));
            self.pods.insert(name.clone(), pod);
        }
    }

    /// The pod left the mesh and lives on: its next connection is plain, those that are open go on.
    fn retire(&mut self, name: &PodName) {
        let Some(pod) = self.pods.get_mut(name) else { return };
        match (&pod.state, &pod.worker) {
            (State::Retiring, _) => {}
            (State::Serving, Some(worker)) => {
                tracing::info!(pod = %name, "released");
                worker.retire(RETIRE_GRACE);
                pod.state = State::Retiring;
                pod.direct = Err(NotDirect::NotCaptured);
                if let Some(cookie) = pod.cookie
                    && let Err(e) = self.kernel.release(cookie)
                {
                    tracing::error!(pod = %name, "the hooks cannot be told to let it go; the audit tries again: {e}");
                }
            }
            _ => self.remove(name),
        }
    }

    /// Another pod, or another identity, in the same namespace. The hooks go on capturing: until the new worker
    /// serves, its connections are refused, not plain.
    fn replace(&mut self, name: &PodName, now: &Arc<Workload>) {
        tracing::info!(pod = %name, identity = %now.identity, "its identity is another: a new worker takes its place");
        if let Some(worker) = self.pods.get_mut(name).and_then(|pod| pod.worker.take()) {
            worker.stop();
        }
        self.start(now);
    }

    /// The pod is gone, or lives elsewhere now: cut everything.
    fn remove(&mut self, name: &PodName) {
        tracing::info!(pod = %name, "removed");
        if let Some(cookie) = self.pods.get(name).and_then(|pod| pod.cookie)
            && let Err(e) = self.kernel.forget(cookie)
        {
            tracing::error!(pod = %name, "the hooks cannot be told to forget it; the audit tries again: {e}");
        }
        self.forget(name);
    }

    fn forget(&mut self, name: &PodName) {
        if let Some(worker) = self.pods.remove(name).and_then(|pod| pod.worker) {
            worker.stop();
        }
        self.metrics.unregister(name);
    }

    fn serving(&self) -> usize {
        self.pods.values().filter(|pod| pod.state == State::Serving).count()
    }
}
