//! A worker's thread, from entering the pod's namespace to leaving it.

use super::certificate::{Applicant, CertificateState, Identity, Signer};
use super::context::{Budgets, Context, Strangers};
use super::dial::Dialer;
use super::direct::DirectPath;
use super::judging::Judging;
use super::listeners::Listeners;
use super::pool::Pool;
use super::{
    Command, Entered, Ready, Settings, StartError, WorkerError, acceptor, buffers, sample, service, tasks,
};
use crate::hbone;
use crate::kernel::{SocketTable, netns_cookie, open_netns, pod_device};
use crate::mesh::{Mesh, Workload};
use crate::tally::Tally;
use crate::telemetry::{AccessLog, WorkerMetrics};
use nix::sched::{CloneFlags, setns};
use nix::unistd::gettid;
use socket2::{Domain, Socket, Type};
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;
use tokio::time::sleep;

/// Handshakes need a few tens of KiB (post-quantum key exchange the most); untouched pages cost nothing.
const STACK: usize = 512 * 1024;

/// How often counters of idle label sets are looked at.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

/// All that a worker is born with.
pub struct WorkerSpec {
    /// The pod, as it is when the worker starts.
    pub workload: Arc<Workload>,
    pub netns: PathBuf,
    pub settings: Arc<Settings>,
    pub sockets: SocketTable,
    pub direct: DirectPath,
    pub mesh: watch::Receiver<Arc<Mesh>>,
    pub signer: Signer,
    pub metrics: Arc<WorkerMetrics>,
    pub access_log: Option<AccessLog>,
}

type Started = oneshot::Sender<Result<Ready, StartError>>;

/// `alive` is dropped when the thread ends, however it ends.
pub(super) fn spawn(
    spec: WorkerSpec,
    state: watch::Sender<CertificateState>,
    judging: Judging,
    commands: mpsc::UnboundedReceiver<Command>,
    entered: oneshot::Sender<Entered>,
    started: Started,
    alive: oneshot::Sender<()>,
) -> io::Result<JoinHandle<()>> {
    // The kernel cuts thread names at 15 bytes.
    let name = format!("w:{}", spec.workload.name.name);
    Builder::new().name(name).stack_size(STACK).spawn(move || {
        let _alive = alive;
        match enter(&spec.netns, &spec.workload.addresses) {
            Ok((ready, netns)) => {
                // Nobody listens any more when the node core has given up on this pod.
                let _ = entered.send(Entered { netns_cookie: ready.netns_cookie, netns });
                run(spec, state, judging, ready, commands, started);
            }
            Err(error) => fail(started, None, error),
        }
    })
}

fn run(
    spec: WorkerSpec,
    state: watch::Sender<CertificateState>,
    judging: Judging,
    ready: Ready,
    commands: mpsc::UnboundedReceiver<Command>,
    started: Started,
) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        // The tasks end with the set, before the thread does: every socket of the pod closes there.
        Ok(runtime) => {
            LocalSet::new().block_on(&runtime, work(spec, state, judging, ready, commands, started))
        }
        Err(e) => fail(started, Some(ready.netns_cookie), WorkerError::Runtime(e)),
    }
}

fn fail(started: Started, netns_cookie: Option<u64>, error: WorkerError) {
    // Nobody waits any more when the node core has given up on this pod.
    let _ = started.send(Err(StartError { netns_cookie, error }));
}

/// Moves this thread into the pod's network namespace, and learns its cookie and its device.
fn enter(path: &Path, addresses: &[IpAddr]) -> Result<(Ready, File), WorkerError> {
    let error = |source: io::Error| WorkerError::Netns { path: path.to_owned(), source };
    let netns = open_netns(path).map_err(error)?;
    setns(&netns, CloneFlags::CLONE_NEWNET).map_err(|e| error(e.into()))?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(error)?;
    let netns_cookie = netns_cookie(&socket).map_err(error)?;
    let ready = Ready { netns_cookie, thread_id: gettid().as_raw(), device: pod_device(addresses) };
    Ok((ready, netns))
}

async fn work(
    spec: WorkerSpec,
    state: watch::Sender<CertificateState>,
    judging: Judging,
    ready: Ready,
    mut commands: mpsc::UnboundedReceiver<Command>,
    started: Started,
) {
    let Settings { hbone_congestion, metrics_idle, .. } = (*spec.settings).clone();
    let applicant = Applicant {
        pod: spec.workload.name.clone(),
        signer: spec.signer,
        settings: spec.settings.clone(),
        metrics: spec.metrics.clone(),
        state,
    };
    let identity = tokio::select! {
        identity = Identity::obtain(applicant) => Rc::new(identity),
        () = hung_up(&mut commands) => return,
    };
    let metrics = spec.metrics;
    let name = spec.workload.name.clone();
    let own = Rc::new(RefCell::new(spec.workload));
    let budgets = Budgets::of(&spec.settings.descriptors, &name.namespace, &metrics);
    let dialer = Rc::new(Dialer::new(spec.sockets, spec.settings, own.clone()));
    let context = Rc::new(Context {
        name,
        own,
        netns_cookie: ready.netns_cookie,
        mesh: spec.mesh,
        direct: spec.direct,
        pool: Pool::new(dialer.clone(), identity.clone(), metrics.clone(), budgets.outbound.clone()),
        dialer,
        identity: identity.clone(),
        metrics: metrics.clone(),
        access_log: spec.access_log,
        open: Tally::default(),
        admitted: Rc::default(),
        budgets,
        strangers: Strangers::default(),
        go_away: watch::Sender::new(0),
    });
    let accepting = context.clone();
    let dialer = context.dialer.clone();
    let mut listeners = Listeners::new(hbone_congestion, dialer, move |listener, address| {
        acceptor::accept(accepting.clone(), listener, address)
    });
    if let Err(e) = listeners.open(&context.addresses()) {
        return fail(started, Some(ready.netns_cookie), e);
    }
    tasks::spawn_vital(identity.renew());
    tasks::spawn_vital(follow_mesh(context.clone()));
    tasks::spawn_vital(sample::sample(context.clone()));
    tasks::spawn_vital(expire_metrics(metrics.clone(), metrics_idle));
    tasks::spawn_vital(hbone::keep_to_budget());
    tasks::spawn_vital(buffers::watch());
    tasks::spawn_vital(sample::memory(metrics));
    let _ = started.send(Ok(ready));
    service::serve(&context, listeners, judging, commands).await;
}

/// The pool forgets peers as the mesh does, and peers are told when the pod starts to terminate.
async fn follow_mesh(context: Rc<Context>) {
    let mut mesh = context.mesh.clone();
    let mut terminating = false;
    while mesh.changed().await.is_ok() {
        let now = mesh.borrow_and_update().clone();
        context.pool.update(&now);
        let ends = context.own(&now).terminating;
        if ends && !terminating {
            context.tell_peers_to_go_away();
        }
        terminating = ends;
    }
}

async fn expire_metrics(metrics: Arc<WorkerMetrics>, max_idle: Duration) {
    loop {
        sleep(EXPIRY_INTERVAL.min(max_idle)).await;
        metrics.expire_idle(Instant::now(), max_idle);
    }
}

/// The node core dropped its handle before the worker was ready. What it says before that cannot matter yet:
/// a worker that does not serve has nothing to drain or to report.
async fn hung_up(commands: &mut mpsc::UnboundedReceiver<Command>) {
    while commands.recv().await.is_some() {}
}
