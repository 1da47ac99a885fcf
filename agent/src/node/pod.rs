//! A pod that this node has in the mesh, or is bringing in or letting go.

use super::netns::{Leads, NetnsId, leads};
use super::pending::Pending;
use super::plain_rules::RulesOfPolicies;
use crate::decide::{NotDirect, Placed, PodAddresses, Standing};
use crate::kernel::{Excess, Inbound, InboundMode, PlainRules, PodCapture, Unknown};
use crate::mesh::{MtlsMode, OnAgentLoss, Workload};
use crate::telemetry::WorkerMetrics;
use crate::worker::{CertificateState, Ready, Worker};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

pub struct Pod {
    pub workload: Arc<Workload>,
    /// What its policies say of plaintext: worked out once.
    rules: PlainRules,
    /// Tells this worker's messages from those of an earlier one for the same pod.
    pub incarnation: u64,
    pub state: State,
    /// There is one in every state but `Failed`.
    pub worker: Option<Worker>,
    /// How the last worker's certificate stands.
    pub certificate: Option<watch::Receiver<CertificateState>>,
    /// The netns cookie that the last worker which entered the pod has learned.
    pub cookie: Option<u64>,
    /// The network namespace that it has entered, kept open.
    pub netns: Option<(Arc<File>, NetnsId)>,
    /// What the last worker that served said of itself.
    pub ready: Option<Ready>,
    /// Whether its connections within the node may be direct, and if not why.
    pub direct: Result<(), NotDirect>,
    /// What it does without, because it asks for more of the kernel's tables than its share.
    pub excesses: Vec<Excess>,
    /// They outlive a worker.
    pub metrics: Arc<WorkerMetrics>,
    /// The kernel captures the pod as it should, or did so before something failed. Then what is in force stays in force.
    pub is_established: bool,
    /// Why what the kernel has of the pod is not as it should be, while the pod is served or let go none the less.
    pub unsettled: Option<Pending>,
    /// Set while nobody speaks of the pod any more, and it is still there.
    pub orphan: Option<Orphan>,
    /// An agent has captured the pod before, this one or an earlier one.
    pub was_captured: bool,
    /// The hooks refuse the pod, since its worker has waited for a certificate for too long.
    pub is_closed: bool,
    /// Since when it has waited for its worker, where it does.
    pub starting_since: Instant,
    /// Failures to start in a row.
    pub failures: u32,
    /// Why, the last time.
    pub last_failure: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// The worker is on its way up. The hooks do what they did before.
    Starting,
    /// The worker serves and the hooks capture.
    Serving,
    /// The pod left the mesh; what is open goes on.
    Retiring,
    /// There is no worker, and the hooks refuse. It is tried again then.
    Failed { reason: String, fault: Fault, retry_at: Instant },
}

/// Who has to mend what keeps a pod from being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The pod's own programs, or its object.
    Pod,
    /// The node, or the agent.
    Node,
}

/// A pod that is still there and that nobody speaks of any more.
#[derive(Debug)]
pub struct Orphan {
    pub why: &'static str,
    pub since: Instant,
    /// People have been told.
    pub is_told: bool,
}

/// How long a pod may wait for its certificate before the hooks refuse it. A certificate takes milliseconds; until it is there
/// a pod that nobody has captured yet goes on as it was.
pub const CERTIFICATE_PATIENCE: Duration = Duration::from_secs(1);

/// A sandbox and its object end within seconds of each other: until then an orphan is nothing to tell of.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(5);

impl Orphan {
    /// When people are to be told, if they have not been.
    pub fn tell_at(&self) -> Option<Instant> {
        (!self.is_told).then(|| self.since + ORPHAN_PATIENCE)
    }
}

impl Pod {
    /// A pod that nobody has looked after yet.
    pub fn new(
        workload: &Arc<Workload>,
        rules: &RulesOfPolicies,
        incarnation: u64,
        metrics: Arc<WorkerMetrics>,
    ) -> Self {
        Self {
            workload: workload.clone(),
            rules: rules.of(workload),
            incarnation,
            state: State::Starting,
            worker: None,
            certificate: None,
            cookie: None,
            netns: None,
            ready: None,
            direct: Err(NotDirect::NotCaptured),
            excesses: vec![],
            metrics,
            is_established: false,
            unsettled: None,
            orphan: None,
            was_captured: false,
            is_closed: false,
            starting_since: Instant::now(),
            failures: 0,
            last_failure: None,
        }
    }

    /// The pod as the mesh has it now; gives whether that is another than before.
    pub fn set_workload(&mut self, workload: &Arc<Workload>, rules: &RulesOfPolicies) -> bool {
        if self.workload == *workload {
            return false;
        }
        self.rules = rules.of(workload);
        self.workload = workload.clone();
        true
    }

    /// What becomes of plaintext on addresses that the mesh does not know: they have no rules of their own to be looked up.
    pub fn unknown(&self) -> Unknown {
        let has_rules = self.rules != PlainRules::default();
        match self.workload.mtls.default {
            MtlsMode::Strict => Unknown::Refuse,
            MtlsMode::Permissive | MtlsMode::Disable if has_rules => Unknown::Refuse,
            MtlsMode::Permissive | MtlsMode::Disable => Unknown::Pass,
        }
    }

    /// Where a path leads, compared with the network namespace that the pod's worker has entered. While none has entered
    /// any, there is nothing to compare with, and nothing to keep.
    pub fn leads(&self, path: Option<&Path>) -> Leads {
        match (path, &self.netns) {
            (Some(path), Some((_, id))) => leads(path, *id),
            _ => Leads::Nowhere,
        }
    }

    /// The pod as the kernel has it.
    pub fn placed(&self) -> Placed {
        let standing = match self.state {
            State::Retiring => Standing::Released,
            State::Serving => Standing::Member(self.direct.clone()),
            State::Starting | State::Failed { .. } => {
                Standing::Member(Err(NotDirect::NoVeth { why: "its worker does not serve".to_owned() }))
            }
        };
        Placed { workload: self.workload.clone(), standing }
    }

    pub fn retry_at(&self) -> Option<Instant> {
        match self.state {
            State::Failed { retry_at, .. } => Some(retry_at),
            _ => None,
        }
    }

    pub fn certificate(&self) -> Option<CertificateState> {
        self.certificate.as_ref().map(|state| state.borrow().clone())
    }

    /// For `/config_dump`.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Starting => "starting",
            State::Serving => "serving",
            State::Retiring => "draining",
            State::Failed { .. } => "failed",
        }
    }
}

/// What the hooks have to know of a pod.
pub fn capture(pod: &Pod, direct: bool) -> PodCapture {
    let workload = &pod.workload;
    let PodAddresses { ipv4, ipv6 } = PodAddresses::of(workload);
    PodCapture {
        ipv4,
        ipv6,
        excluded_ports: workload.exclusions.outbound_ports.clone(),
        excluded_cidrs: workload.exclusions.outbound_cidrs.clone(),
        inbound: inbound(workload, pod.rules.clone()),
        direct,
        fails_open: workload.on_agent_loss == OnAgentLoss::Open,
    }
}

/// What becomes of plaintext: as PeerAuthentication has it, but for ports that the pod keeps out of the mesh, and for
/// those that the kubelet probes; and then as policies have it.
fn inbound(workload: &Workload, rules: PlainRules) -> Inbound {
    let mode = |mode| match mode {
        MtlsMode::Disable => InboundMode::Ignore,
        MtlsMode::Permissive => InboundMode::Count,
        MtlsMode::Strict => InboundMode::Refuse,
    };
    Inbound {
        default: mode(workload.mtls.default),
        ports: workload.mtls.ports.iter().map(|(port, of_port)| (*port, mode(*of_port))).collect(),
        probed: workload.probe_ports.clone(),
        excluded: workload.exclusions.inbound_ports.clone(),
        rules,
    }
}
