//! Wants and has: which pods should have a worker, which do, and what to do about the difference.

use super::authority::Authority;
use super::findings::Answers;
use super::ledger::{Entry, Ledger};
use super::netns::NetnsId;
use super::pending::Pending;
use super::plain_rules::RulesOfPolicies;
use super::pod::{CERTIFICATE_PATIENCE, Fault, Orphan, Pod, State, capture};
use super::revisit::Revisit;
use super::runtime::Runtime;
use crate::cli::Run;
use crate::cluster::{Happening, PodEvent, PodEvents};
use crate::decide::Placement;
use crate::direct::{Directory, Samples};
use crate::kernel::{Kernel, PodCapture};
use crate::manifest::ManifestStatus;
use crate::mesh::{Mesh, PodName, Workload};
use crate::telemetry::{AccessLog, NodeMetrics};
use crate::worker::{Descriptors, Entered, Ready, Settings, SignCall, StartError, WorkerError};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, watch};

pub struct Supervisor {
    pub(super) config: Arc<Run>,
    pub(super) kernel: Kernel,
    pub(super) pods: HashMap<PodName, Pod>,
    pub(super) mesh: watch::Receiver<Arc<Mesh>>,
    pub(super) manifests: watch::Receiver<ManifestStatus>,
    pub(super) metrics: Arc<NodeMetrics>,
    pub(super) access_log: Option<AccessLog>,
    pub(super) settings: Arc<Settings>,
    pub(super) signer: mpsc::Sender<SignCall>,
    pub(super) authority: Authority,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) incarnations: u64,
    /// Who is who, for the recorder of direct connections.
    pub(super) directory: watch::Sender<Option<Arc<Directory>>>,
    pub(super) samples: Samples,
    /// Where to tell of pods, where there is anybody.
    pod_events: Option<PodEvents>,
    /// The pods as the kernel has them captured, for workers to decide by.
    pub(super) placement: watch::Sender<Arc<Placement>>,
    /// The generation of the placement by which open connections were judged last.
    pub(super) judged: u64,
    /// Why policies of the mesh are not in force, while they are not.
    pub(super) enforcement: Option<Pending>,
    /// Why the hooks do not know all Services as they are, while they do not.
    pub(super) services: Option<Pending>,
    /// Ports of Services that are left to workers, because their namespace has used up its share, by namespace.
    pub(super) services_beyond_share: BTreeMap<String, usize>,
    /// The pods whose network namespaces this agent or an earlier one has entered.
    pub(super) ledger: Ledger,
    /// Pods of the ledger of which the kernel cannot be asked, or be told.
    pub(super) ledger_errors: Vec<String>,
    /// Pods that the kernel knows, and nobody else: they are refused.
    pub(super) strangers: BTreeSet<u64>,
    pub(super) revisit: Revisit,
    /// What the last audit could not mend in the kernel.
    pub(super) audit_errors: Vec<String>,
    pub(super) node_addresses: BTreeSet<IpAddr>,
    /// Why probes that are known by the node's addresses may be refused.
    pub(super) probes_failing: Option<String>,
    /// When connections that are over were last looked for.
    pub(super) collected: Option<Instant>,
    pub(super) runtime: Runtime,
    /// Captured pods that run, and of which the container runtime says nothing; since when.
    pub(super) unplaced: BTreeMap<PodName, Instant>,
    pub(super) rules_of_policies: RulesOfPolicies,
}

/// What has happened on other threads.
pub enum Event {
    /// The worker is in the pod's network namespace, and has no certificate yet.
    Entered {
        pod: PodName,
        incarnation: u64,
        entered: Entered,
    },
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
    /// Workers and tables have answered what an audit has asked.
    Audited(Box<Answers>),
}

/// What a supervisor is made of.
pub struct Parts {
    pub config: Arc<Run>,
    pub kernel: Kernel,
    /// What the last agent here has left.
    pub ledger: Ledger,
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
            descriptors: Arc::new(Descriptors::of_this_process()),
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
            enforcement: None,
            services: None,
            services_beyond_share: BTreeMap::new(),
            ledger: parts.ledger,
            ledger_errors: vec![],
            strangers: BTreeSet::new(),
            revisit: Revisit::default(),
            audit_errors: vec![],
            node_addresses: BTreeSet::new(),
            probes_failing: None,
            collected: None,
            runtime,
            unplaced: BTreeMap::new(),
            rules_of_policies: RulesOfPolicies::default(),
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
        let (mut wanted, mut unplaced) = (vec![], BTreeMap::new());
        for pod in mesh.captured_on(&self.config.node) {
            match self.runtime.place(pod) {
                Some(placed) => wanted.push(placed),
                // One without an address does not run yet, and one that terminates may have ended.
                None if pod.addresses.is_empty() || pod.terminating => {}
                None => {
                    let since = self.unplaced.get(&pod.name).copied().unwrap_or_else(Instant::now);
                    unplaced.insert(pod.name.clone(), since);
                }
            }
        }
        self.unplaced = unplaced;
        self.depart(&mesh, &wanted);
        for workload in &wanted {
            self.want(workload);
        }
        self.visit_ledger();
        self.enforce();
        self.publish_directory();
        self.metrics.set_captured_pods(self.serving());
    }

    pub fn on_event(&mut self, event: Event) {
        match event {
            Event::Entered { pod, incarnation, entered } => {
                if self.is_current(&pod, incarnation) {
                    self.on_entered(&pod, entered);
                }
            }
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
            Event::Certificate => self.close_waiting(Instant::now()),
            Event::Audited(answers) => self.end_audit(*answers),
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
        let is_unsettled = |pod: &&Pod| pod.unsettled.as_ref().is_some_and(|pending| pending.is_due(now));
        let unsettled = self.pods.values().filter(is_unsettled).map(|pod| pod.workload.name.clone());
        for name in unsettled.collect::<Vec<_>>() {
            self.capture(&name);
            self.release_in_kernel(&name);
        }
        if [&self.enforcement, &self.services].into_iter().flatten().any(|pending| pending.is_due(now)) {
            self.enforce();
        }
        self.close_waiting(now);
        self.tell_of_orphans(now);
        self.revisit(now);
        self.next_look()
    }

    /// When the node has to look again at anything by itself.
    fn next_look(&self) -> Option<Instant> {
        let pods = self.pods.values().flat_map(|pod| {
            let waits = pod.state == State::Starting && !pod.is_established && !pod.is_closed;
            let patience = waits.then(|| pod.starting_since + CERTIFICATE_PATIENCE);
            let told = pod.orphan.as_ref().and_then(Orphan::tell_at);
            [pod.retry_at(), pod.unsettled.as_ref().map(|pending| pending.at), patience, told]
        });
        let effects =
            [&self.enforcement, &self.services].map(|pending| pending.as_ref().map(|pending| pending.at));
        let others = [self.next_overdue(), self.runtime.next_deadline(), self.revisit.at];
        pods.chain(effects).chain(others).flatten().min()
    }

    /// Has every pod leave the mesh.
    pub fn release(&mut self) {
        for name in self.pods.keys().cloned().collect::<Vec<_>>() {
            self.let_go(&name);
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
        match event {
            Event::Ended { pod: name, incarnation } if self.is_current(&name, incarnation) => {
                self.forget(&name)
            }
            Event::Audited(answers) => self.end_audit(*answers),
            _ => {}
        }
        self.is_empty()
    }

    /// What the hooks capture, as it should be. A pod whose worker has not served yet is none of it: what the kernel has of
    /// such a pod stays as it is, and failed pods are refused, which the kernel side remembers by itself.
    pub(super) fn wanted(&self) -> HashMap<u64, PodCapture> {
        let is_captured =
            |pod: &&Pod| pod.is_established && matches!(pod.state, State::Starting | State::Serving);
        let captured = self.pods.values().filter(is_captured);
        captured.filter_map(|pod| Some((pod.cookie?, capture(pod, pod.direct.is_ok())))).collect()
    }

    /// Whether every pod is known that is to be captured, with its network namespace.
    pub(super) fn knows_all(&self) -> bool {
        let may_come = |pod: &Pod| pod.state == State::Starting && pod.cookie.is_none();
        self.mesh.borrow().generation > 0 && self.runtime.is_known && !self.pods.values().any(may_come)
    }

    /// The pod should be captured: see to it, whatever it is now.
    fn want(&mut self, workload: &Arc<Workload>) {
        let Some(pod) = self.pods.get_mut(&workload.name) else {
            return self.start(workload);
        };
        let changed = pod.set_workload(workload, &self.rules_of_policies);
        if pod.orphan.take().is_some_and(|orphan| orphan.is_told) {
            tracing::info!(pod = %workload.name, "somebody speaks of it again");
        }
        match (&pod.state, &pod.worker) {
            (State::Retiring, Some(worker)) => {
                worker.serve();
                pod.state = State::Serving;
                self.write_down(&workload.name);
                self.capture(&workload.name);
            }
            (State::Serving, _) if changed => {
                self.write_down(&workload.name);
                self.capture(&workload.name);
            }
            (State::Starting | State::Failed { .. }, _) if changed && !pod.is_established => {
                let guarded = Self::guard_early(&mut self.kernel, pod);
                Self::tell_unguarded(&workload.name, guarded);
            }
            _ => {}
        }
    }

    pub(super) fn start(&mut self, workload: &Arc<Workload>) {
        let before = self.pods.remove(&workload.name);
        self.incarnations += 1;
        let mut pod = match before {
            Some(mut before) => {
                before.set_workload(workload, &self.rules_of_policies);
                before.incarnation = self.incarnations;
                before.state = State::Starting;
                before.worker = None;
                before.starting_since = Instant::now();
                before
            }
            None => self.new_pod(workload),
        };
        match self.spawn(&pod) {
            Ok((worker, certificate)) => {
                (pod.worker, pod.certificate) = (Some(worker), Some(certificate));
            }
            Err((fault, reason)) => self.fail(&mut pod, reason, fault),
        }
        self.pods.insert(workload.name.clone(), pod);
    }

    fn is_current(&self, pod: &PodName, incarnation: u64) -> bool {
        self.pods.get(pod).is_some_and(|pod| pod.incarnation == incarnation)
    }

    /// From now on the pod is known by its cookie, whatever becomes of its worker, and to a successor, too.
    fn on_entered(&mut self, name: &PodName, entered: Entered) {
        let Some(pod) = self.pods.get_mut(name) else { return };
        let Entered { netns_cookie, netns } = entered;
        if pod.cookie != Some(netns_cookie) {
            (pod.is_established, pod.is_closed) = (false, false);
        }
        pod.cookie = Some(netns_cookie);
        match NetnsId::of(&netns) {
            Ok(id) => pod.netns = Some((Arc::new(netns), id)),
            Err(e) => tracing::error!(pod = %name, "its network namespace cannot be told from others: {e}"),
        }
        if !pod.is_established {
            Self::tell_unguarded(name, Self::guard_early(&mut self.kernel, pod));
        }
        self.write_down(name);
        self.publish_directory();
    }

    /// Has a successor know the pod's network namespace. One that another pod is in already stays written down as that pod's.
    fn write_down(&mut self, name: &PodName) {
        let Some(pod) = self.pods.get(name) else { return };
        let is_served = pod.state == State::Serving;
        if pod.cookie.is_some_and(|cookie| self.is_anothers(name, cookie)) && !is_served {
            return;
        }
        if let (Some(cookie), Some((_, id)), Some(path)) = (pod.cookie, &pod.netns, &pod.workload.netns) {
            let (uid, netns) = (pod.workload.uid.clone(), path.clone());
            self.ledger.enter(Entry { cookie, pod: name.clone(), uid, netns, id: *id });
        }
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
                let fault = match error {
                    WorkerError::PortTaken { .. } => Fault::Pod,
                    _ => Fault::Node,
                };
                self.fail(&mut pod, error.to_string(), fault);
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
    pub(super) fn tell(&self, workload: &Workload, what: Happening) {
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
                    self.fail(&mut pod, "its worker ended before it served".to_owned(), Fault::Node);
                    self.pods.insert(name.clone(), pod);
                }
            }
        }
    }

    /// A pod that cannot be guarded and captured is not served. One that was before is served on under what is in force, and
    /// the change is tried again.
    pub(super) fn capture(&mut self, name: &PodName) {
        let established = self.establish(name).map_err(|e| format!("it cannot be guarded and captured: {e}"));
        let Some(mut pod) = self.pods.remove(name) else { return };
        match established {
            _ if pod.state != State::Serving => {}
            Err(reason) if !pod.is_established => self.fail(&mut pod, reason, Fault::Node),
            established => {
                pod.unsettled = Pending::after(pod.unsettled.take(), established, &format!("pod {name}"));
            }
        }
        self.pods.insert(name.clone(), pod);
    }

    fn serving(&self) -> usize {
        self.pods.values().filter(|pod| pod.state == State::Serving).count()
    }
}
