//! One pod's data plane: a thread that lives in the pod's network namespace.
//!
//! The thread runs a single-threaded runtime with everything that belongs to the pod: its listeners, its key,
//! its pooled connections. Other workers share nothing with it but counters that are read at a scrape. The
//! node core speaks to it through [`Worker`] alone, and gives it immutable snapshots.

mod acceptor;
mod admitted;
mod budget;
mod buffers;
mod certificate;
mod collect;
mod context;
mod dial;
mod direct;
mod early;
mod handshakes;
mod inbound;
mod judge;
mod judging;
mod listeners;
mod opened;
mod outbound;
mod passing;
mod peers;
mod pool;
mod proof;
mod record;
mod relay;
mod revocation;
mod sample;
mod seldom;
mod service;
mod socket;
mod tasks;
mod thread;
mod traffic;

pub use budget::Descriptors;
pub use certificate::{CertificateState, Failing, Life, SignCall, Signer};
pub use direct::DirectPath;
pub use thread::WorkerSpec;

use crate::decide::DirectMode;
use crate::kernel::{FlowEnd, NoPath, PodDevice};
use crate::mesh::TrustDomains;
use judging::Judging;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// Where captured connections arrive in the pod (Istio's number).
pub const OUTBOUND_PORT: u16 = 15001;

/// A worker answers between two connections, within microseconds; one that takes this long is stuck.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the node core waits for a worker that was told to end.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// The node core's handle on a worker. Dropping it ends the worker and cuts its connections.
pub struct Worker {
    commands: mpsc::UnboundedSender<Command>,
    judged: watch::Receiver<Judged>,
    thread: JoinHandle<()>,
}

/// What the command line decides for every worker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a connection to an app or a peer may take to come up.
    pub connect_timeout: Duration,
    /// How long certificates should live.
    pub cert_lifetime: Duration,
    /// The names of the mesh that peers' identities may be under.
    pub trust_domains: TrustDomains,
    /// Congestion control of HBONE connections; `None` leaves the node's choice.
    pub hbone_congestion: Option<String>,
    /// Label sets of metrics that no connection used for this long are dropped.
    pub metrics_idle: Duration,
    /// What all pods' connections share.
    pub descriptors: Arc<Descriptors>,
}

/// What the node core tells a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Be in service; takes back an earlier `Retire`.
    Serve,
    /// The pod left the mesh and lives on: take what still arrives for `grace`, then nothing new, and end when
    /// the last connection has.
    Retire {
        grace: Duration,
    },
    /// The agent goes: nothing new from now on, end when the last connection has, or at the deadline.
    Drain {
        deadline: Duration,
    },
    /// The mesh has changed: cut the open connections that it allows no longer.
    Judge(Arc<Terms>),
    /// These ends of attested connections should have sockets of the pod behind them: end those that have none.
    Collect(Vec<FlowEnd>),
    /// Compare what the worker holds with what it should, mend it, and say what was found.
    Audit(oneshot::Sender<Inspection>),
    Report(oneshot::Sender<Report>),
    /// The pod is gone: reset all connections, and end.
    Abort,
    /// Panic, to prove what follows from it.
    Panic(PanicIn),
}

/// Where a worker is to panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicIn {
    /// In its main loop.
    Worker,
    /// In a task that it cannot do without.
    Task,
}

/// What a node has to say on which connections may be open, besides the mesh.
#[derive(Debug)]
pub struct Terms {
    pub direct: DirectMode,
    /// The node's own addresses: the kubelet probes pods from one of them.
    /// Empty where probes are known by the node's sockets alone.
    pub node_addresses: BTreeSet<IpAddr>,
}

/// How far a worker is with judging what the pod has open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    /// The generation (`Placement::generation`) under which all was judged, and cut where it had to be, the last time that it
    /// succeeded.
    pub generation: u64,
    /// Why it has not succeeded since; the worker tries again.
    pub failing: Option<String>,
}

/// What a worker says as soon as it is in the pod, before it has a certificate.
#[derive(Debug)]
pub struct Entered {
    pub netns_cookie: u64,
    /// The pod's network namespace, kept open: nothing has to be opened again where descriptors are short.
    pub netns: File,
}

/// What a worker says of itself and its pod once it serves.
#[derive(Clone, Debug)]
pub struct Ready {
    pub netns_cookie: u64,
    /// The thread's id, to read its CPU time by.
    pub thread_id: i32,
    /// The pod's end of its veth, or why it has none.
    pub device: Result<PodDevice, NoPath>,
}

/// What happens to a worker, for whoever watches over it.
pub struct Lifecycle {
    /// Yields when the worker is in the pod's network namespace, or an error when it could not enter.
    pub entered: oneshot::Receiver<Entered>,
    /// Yields when the worker serves or has failed to start.
    pub started: oneshot::Receiver<Result<Ready, StartError>>,
    /// Yields an error when the thread has ended, in order or by a panic.
    pub ended: oneshot::Receiver<()>,
    /// How its certificate stands, for as long as the worker lives.
    pub certificate: watch::Receiver<CertificateState>,
}

/// A failed start. The cookie, where it was learned, lets the node core close the pod.
#[derive(Debug)]
pub struct StartError {
    pub netns_cookie: Option<u64>,
    pub error: WorkerError,
}

/// Why a worker could not start. Every one leaves the pod outside the mesh and closed, never open.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("its network namespace {path} cannot be entered: {source}", path = .path.display())]
    Netns { path: PathBuf, source: std::io::Error },
    #[error(
        "port {port} in the pod is taken by another process; Pillion needs ports 15001 and 15008 of a captured pod"
    )]
    PortTaken { port: u16 },
    #[error("cannot listen on {address} in the pod: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the worker's runtime did not start: {0}")]
    Runtime(std::io::Error),
    #[error("the worker's TLS configuration is not usable: {0}")]
    Tls(rustls::Error),
}

/// What a worker found when it looked at itself.
#[derive(Debug)]
pub struct Inspection {
    pub listeners: Vec<ListenerRepair>,
    /// Renewal has failed for so long that new connections have no valid certificate.
    pub certificate_expired: bool,
}

/// A listener that was not there any more.
#[derive(Debug)]
pub struct ListenerRepair {
    pub address: SocketAddr,
    /// Why it could not be mended; `None` when it was.
    pub error: Option<String>,
}

/// A worker's state, for `/config_dump`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// By port: whether all listeners of it are there.
    pub listeners: std::collections::BTreeMap<u16, bool>,
    pub certificate: CertificateReport,
    pub open_connections: usize,
    pub pool: Vec<PoolReport>,
    /// Live tasks of the worker, listeners and timers included.
    pub tasks: usize,
}

#[derive(Debug, Serialize)]
pub struct CertificateReport {
    pub identity: String,
    pub serial: String,
    /// Who signed it.
    pub issuer: String,
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: time::OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: time::OffsetDateTime,
    /// Why there is no other one yet, when the last attempt has failed.
    pub failing: Option<Failing>,
}

#[derive(Debug, Serialize)]
pub struct PoolReport {
    pub peer: SocketAddr,
    pub identity: String,
    pub connections: usize,
    pub streams: usize,
}

impl Worker {
    /// Starts the thread.
    pub fn spawn(spec: WorkerSpec) -> std::io::Result<(Self, Lifecycle)> {
        let (commands, inbox) = mpsc::unbounded_channel();
        let (inside, entered) = oneshot::channel();
        let (ready, started) = oneshot::channel();
        let (alive, ended) = oneshot::channel();
        let (state, certificate) = watch::channel(CertificateState::default());
        let (told, judged) = watch::channel(Judged::default());
        let thread = thread::spawn(spec, state, Judging::new(told), inbox, inside, ready, alive)?;
        Ok((Self { commands, judged, thread }, Lifecycle { entered, started, ended, certificate }))
    }

    pub fn serve(&self) {
        self.tell(Command::Serve);
    }

    pub fn retire(&self, grace: Duration) {
        self.tell(Command::Retire { grace });
    }

    pub fn drain(&self, deadline: Duration) {
        self.tell(Command::Drain { deadline });
    }

    /// Cuts the pod's open connections that the mesh as it is now allows no longer. The worker tries until nothing stands in
    /// the way of it; [`Worker::judged`] says how far it is.
    pub fn judge(&self, terms: Arc<Terms>) {
        self.tell(Command::Judge(terms));
    }

    /// Ends those of the pod's ends of attested connections that no socket stands behind.
    pub fn collect(&self, ends: Vec<FlowEnd>) {
        self.tell(Command::Collect(ends));
    }

    /// The generation (`Placement::generation`) under which all that the pod has open was judged last, and cut where it had to
    /// be; 0 before the first time.
    ///
    /// # Errors
    /// What stands in the way of it at the moment: connections that are not allowed any more may be open.
    pub fn judged(&self) -> Result<u64, String> {
        let judged = self.judged.borrow();
        judged.failing.clone().map_or(Ok(judged.generation), Err)
    }

    /// `None` when the worker has ended, an error when it does not answer within [`PATIENCE`]. It is asked now, whenever its
    /// answer is waited for.
    pub fn audit(&self) -> impl Future<Output = Result<Option<Inspection>, Elapsed>> + Send + use<> {
        self.ask(Command::Audit)
    }

    /// As [`Self::audit`].
    pub fn report(&self) -> impl Future<Output = Result<Option<Report>, Elapsed>> + Send + use<> {
        self.ask(Command::Report)
    }

    fn ask<T: Send>(
        &self,
        question: fn(oneshot::Sender<T>) -> Command,
    ) -> impl Future<Output = Result<Option<T>, Elapsed>> + Send + use<T> {
        let (reply, answer) = oneshot::channel();
        self.tell(question(reply));
        async { Ok(timeout(PATIENCE, answer).await?.ok()) }
    }

    /// Has the worker panic: a test asks for it.
    pub fn panic(&self, place: PanicIn) {
        self.tell(Command::Panic(place));
    }

    /// Ends the worker of a pod that is gone: as [`Self::stop`], and resets what is open. Nothing of it can be sent to its end any
    /// more, and a socket that waits for its peer keeps the network namespace for minutes.
    pub fn abort(self) {
        self.tell(Command::Abort);
        self.stop();
    }

    /// Ends the worker now. Blocks until its thread has left the pod, a few milliseconds; a thread that is stuck is
    /// left behind, so that one pod's worker cannot hold up the node.
    pub fn stop(self) {
        drop(self.commands);
        let deadline = Instant::now() + STOP_PATIENCE;
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                return tracing::error!("a worker's thread does not end; it is left behind");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.thread.join().is_err() {
            tracing::error!("a worker's thread panicked");
        }
    }

    /// A worker that has ended takes no commands, and needs none.
    fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}
