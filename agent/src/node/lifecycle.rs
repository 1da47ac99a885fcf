//! An agent's life: start, serve, drain, end; and what `uninstall` does after it.

use super::authority::{self, Authority};
use super::certifier;
use super::health::{Health, TURN_EVERY};
use super::introspect::{Mailbox, Question};
use super::leave::RETIRE_GRACE;
use super::ledger::Ledger;
use super::runtime;
use super::standby::{Held, Standby};
use super::state_dir::{LAST_GOOD, Record, StateDir};
use super::supervisor::{Event, Parts, Supervisor};
use crate::admin::{Addresses, HealthServer, Servers};
use crate::cli::{ClusterUninstall, Run, Uninstall};
use crate::cluster::{ClusterSource, PodEvents, Rollout, Writes, connect, is_going, remove};
use crate::direct::{self, DirectLog};
use crate::kernel::{Kernel, KernelConfig, TrafficControl};
use crate::manifest::{ManifestSource, Published, Settings};
use crate::memory;
use crate::nri::Installation;
use crate::sandbox::Call;
use crate::telemetry::{AccessLog, Logging, NodeMetrics};
use anyhow::{Context as _, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::future::pending;
use std::io::stdout;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until, timeout};

/// Questions that wait for the supervisor.
const MAILBOX: usize = 64;

/// Lines of the access log that are still to be written when the agent ends get this long.
const LOG_FLUSH: Duration = Duration::from_secs(2);

/// Runs the agent until it is told to end.
pub async fn run(config: Run) -> anyhow::Result<()> {
    let logging = Logging::install(&config.log).context("--log")?;
    let mut signals = Signals::new()?;
    let config = Arc::new(config);
    let health = Arc::new(Health::default());
    let health_server = serve_health(&config, &health)?;
    let kernel_config = KernelConfig {
        node: config.node.clone(),
        bpffs: config.bpffs.clone(),
        mounts_bpffs: config.daemonset.is_none(),
        cgroup_root: config.cgroup_root.clone(),
        log_hooks: config.bpf_log,
        traffic_control: TrafficControl::of_this_kernel(),
        probes: config.probes,
        map_sizes: Vec::new(),
    };
    Kernel::check(&kernel_config)?;
    let held = match Held::take(&config, &kernel_config) {
        Err(error) if config.standby && error.is_held() => {
            tracing::info!("standing by until the other agent ends: {error}");
            None
        }
        held => Some(held?),
    };
    check_congestion(&config)?;
    let settings = Settings {
        node: config.node.clone(),
        trust_domains: config.trust.trust_domains(),
        root_namespace: config.root_namespace.clone(),
        last_good: Some(config.state_dir.join(LAST_GOOD)),
    };
    let metrics = Arc::new(NodeMetrics::new(env!("CARGO_PKG_VERSION")));
    metrics.show_log_lines_dropped(&logging.dropped());
    let writes = Writes {
        options: config.cluster.clone(),
        waits_for: health.waits_for(),
        events_dropped: metrics.pod_events_dropped(),
    };
    let source = Source::start(&config, settings, writes).await?;
    let Published { mesh, status } = source.published().clone();
    let ca = authority::open(&config, mesh.clone()).await?;
    raise_file_limit();
    let Held { state_dir, claim } = match held {
        Some(held) => held,
        None => {
            let standby = Standby {
                config: &config,
                kernel: &kernel_config,
                health: &health,
                mesh: mesh.clone(),
                ca: ca.clone(),
                rollout: rollout(&config).await?,
            };
            let Some(held) = standby.wait(signals.end()).await? else { return Ok(()) };
            tracing::info!("the other agent has ended: taking over");
            held
        }
    };
    health.serves(vec!["the first look at the mesh".to_owned()]);

    let plugin = Installation::of(&config.nri);
    let record = Record { node: config.node.clone(), bpffs: config.bpffs.clone(), plugin: plugin.clone() };
    let former = state_dir.former();
    state_dir.write(&record, former.as_ref())?;
    install(former.and_then(|record| record.plugin), plugin.as_ref());
    let ledger = Ledger::open(&config.state_dir);
    let captured: Vec<u64> = ledger.entries().map(|entry| entry.cookie).collect();
    let mut kernel = Kernel::open_claimed(&kernel_config, claim, &captured)?;

    let access_log = match config.access_log {
        true => {
            let log = AccessLog::start(stdout(), metrics.access_log_dropped());
            Some(log.context("the thread that writes the access log")?)
        }
        false => None,
    };
    let (directory, who_is_who) = watch::channel(None);
    let direct_log = DirectLog::start(direct::Parts {
        events: kernel.events()?,
        denials: kernel.denials()?,
        flows: kernel.flows(),
        directory: who_is_who,
        access_log: access_log.clone(),
        lost: metrics.direct_events_lost(),
        denials_lost: metrics.denials_lost(),
    });
    let direct_log = direct_log.context("the thread that records direct connections")?;
    let (signer, calls) = mpsc::channel(certifier::QUEUE);
    let authority = Authority { trust: ca.trust(), errors: ca.errors() };
    tokio::spawn(certifier::run(ca, calls, metrics.clone()));
    let (supervisor, events) = Supervisor::new(Parts {
        config: config.clone(),
        kernel,
        ledger,
        mesh,
        manifests: status,
        metrics: metrics.clone(),
        access_log: access_log.clone(),
        signer,
        authority,
        directory,
        samples: direct_log.samples(),
        pod_events: source.events(),
    });

    let (questions, mail) = mpsc::channel(MAILBOX);
    let addresses = Addresses { admin: config.admin_addr, metrics: config.metrics_addr };
    let _servers = Servers::start(addresses, Arc::new(Mailbox::new(questions, metrics)), logging);
    health_server.listen(config.health_addr);
    tracing::info!(node = config.node, version = env!("CARGO_PKG_VERSION"), "the agent serves");

    let (connection, calls) = runtime::connect(&config);
    let giving_back = tokio::spawn(memory::give_back());
    let mut node = Node { supervisor, events, mail, health, calls };
    node.serve(&mut signals, config.audit_interval).await;
    // From here on, whatever the runtime starts waits for the next agent.
    drop(connection);
    let leaves = leaves_the_node(&config).await;
    if leaves {
        tracing::info!(within = ?config.drain_timeout, "the DaemonSet is being removed: pods are given free");
        node.release(&mut signals, config.drain_timeout).await;
    }
    tracing::info!(within = ?config.drain_timeout, "told to end: draining; a second signal ends at once");
    node.drain(&mut signals, config.drain_timeout).await;
    giving_back.abort();
    // Both log: what is still to be told is told before the log's end.
    drop(node);
    drop(source);
    drop(direct_log);
    if access_log.is_some_and(|log| !log.flush(LOG_FLUSH)) {
        tracing::warn!("the end of the access log could not be written");
    }
    if leaves {
        drop(state_dir);
        return uninstall(&Uninstall { state_dir: config.state_dir.clone() });
    }
    tracing::info!("ended; the hooks stay and refuse captured pods' connections until an agent is back");
    Ok(())
}

/// Has this process answer for itself from the beginning, on its socket. On its address it does so once it serves: until then
/// another agent may have the address.
fn serve_health(config: &Run, health: &Arc<Health>) -> anyhow::Result<HealthServer> {
    HealthServer::start(config.health_socket.as_deref(), health.clone())
        .context("the thread that answers for this process")
}

/// How the agent hears of its DaemonSet's other pods; None where it is not told of which version its own is.
async fn rollout(config: &Run) -> anyhow::Result<Option<Rollout>> {
    let (Some(daemon_set), Some(revision)) = (&config.daemonset, &config.revision) else { return Ok(None) };
    Ok(Some(Rollout {
        client: connect(config.objects.kubeconfig.as_deref()).await?,
        daemon_set: daemon_set.clone(),
        revision: revision.clone(),
        node: config.node.clone(),
    }))
}

/// Whether this agent is the node's last one. Where nobody says so for sure, another one follows.
async fn leaves_the_node(config: &Run) -> bool {
    let Some(daemon_set) = &config.daemonset else { return false };
    let client = match connect(config.objects.kubeconfig.as_deref()).await {
        Ok(client) => client,
        Err(e) => {
            tracing::warn!("whether the DaemonSet {daemon_set} stays cannot be asked, so the hooks do: {e}");
            return false;
        }
    };
    is_going(client, daemon_set).await.unwrap_or_else(|e| {
        tracing::warn!("whether the DaemonSet {daemon_set} stays is not known, so the hooks do: {e}");
        false
    })
}

/// Has every agent of a cluster take everything off its node.
pub async fn uninstall_everywhere(options: &ClusterUninstall) -> anyhow::Result<()> {
    let client = connect(options.kubeconfig.as_deref()).await?;
    match remove(client, &options.daemonset, options.timeout).await? {
        true => println!(
            "the DaemonSet {} and its agents are gone, and what they had on their nodes",
            options.daemonset
        ),
        false => println!("nothing to do: there is no DaemonSet {}", options.daemonset),
    }
    Ok(())
}

/// Removes what the agent with this state directory left in the kernel.
pub fn uninstall(options: &Uninstall) -> anyhow::Result<()> {
    if !options.state_dir.exists() {
        println!("nothing to do: there is no {}", options.state_dir.display());
        return Ok(());
    }
    let state_dir = StateDir::open(&options.state_dir)?;
    if let Some(record) = state_dir.record()? {
        if let Some(plugin) = &record.plugin {
            let removed = plugin.remove().context("the container runtime's plugin cannot be removed")?;
            removed.iter().for_each(|file| println!("removed {}", file.display()));
        }
        for removed in Kernel::uninstall(&record.bpffs, &record.node)? {
            println!("removed {removed}");
        }
    }
    state_dir.remove()?;
    println!("nothing of the agent is left in the kernel");
    Ok(())
}

/// Where the mesh comes from; it is kept current while this lives.
enum Source {
    Manifests(ManifestSource),
    Cluster(ClusterSource),
}

impl Source {
    async fn start(config: &Run, settings: Settings, writes: Writes) -> anyhow::Result<Self> {
        Ok(match &config.objects.manifests {
            Some(directory) => {
                let source = ManifestSource::start(directory.clone(), settings);
                Self::Manifests(
                    source.context("--manifests needs a directory that is there and can be read")?,
                )
            }
            None => {
                let kubeconfig = config.objects.kubeconfig.clone();
                Self::Cluster(ClusterSource::start(kubeconfig, settings, writes).await?)
            }
        })
    }

    fn published(&self) -> &Published {
        match self {
            Self::Manifests(source) => source.published(),
            Self::Cluster(source) => source.published(),
        }
    }

    /// Where to tell of pods; a directory takes nothing.
    fn events(&self) -> Option<PodEvents> {
        match self {
            Self::Manifests(_) => None,
            Self::Cluster(source) => Some(source.events().clone()),
        }
    }
}

struct Node {
    supervisor: Supervisor,
    events: mpsc::UnboundedReceiver<Event>,
    mail: mpsc::Receiver<Question>,
    health: Arc<Health>,
    calls: Option<mpsc::Receiver<Call>>,
}

/// What the node's core does next.
enum Turn {
    Mesh,
    Event(Event),
    Call(Call),
    Question(Question),
    Audit,
    /// At what is due by time, and what readiness says: that happens in each turn.
    Look,
}

impl Node {
    /// Until a signal says to end.
    async fn serve(&mut self, signals: &mut Signals, audit_interval: Duration) {
        let mut audits = ticks(audit_interval);
        let mut turns = ticks(TURN_EVERY);
        let mut mesh = self.supervisor.mesh.clone();
        self.supervisor.refresh_node_addresses();
        self.supervisor.reconcile();
        loop {
            let begun = Instant::now();
            let retry_at = self.supervisor.retry();
            self.supervisor.admit();
            self.health.serves(self.supervisor.waits_for());
            self.supervisor.metrics.core_turn("look", begun.elapsed());
            let turn = tokio::select! {
                // In this order, so that whoever has seen a change and asks is answered by what it has changed.
                biased;
                () = signals.end() => return,
                Ok(()) = mesh.changed() => Turn::Mesh,
                Some(event) = self.events.recv() => Turn::Event(event),
                Some(call) = next(&mut self.calls) => Turn::Call(call),
                Some(question) = self.mail.recv() => Turn::Question(question),
                _ = audits.tick() => Turn::Audit,
                () = until(retry_at) => Turn::Look,
                _ = turns.tick() => Turn::Look,
            };
            let begun = Instant::now();
            // As `pillion_node_core_turn_seconds` names it.
            let task = match turn {
                Turn::Mesh => {
                    mesh.mark_unchanged();
                    self.supervisor.reconcile();
                    "mesh"
                }
                Turn::Event(event) => {
                    self.supervisor.on_event(event);
                    "event"
                }
                Turn::Call(call) => {
                    self.supervisor.on_call(call);
                    "call"
                }
                Turn::Question(question) => {
                    self.supervisor.answer(question);
                    "question"
                }
                Turn::Audit => {
                    self.supervisor.audit(None);
                    "audit"
                }
                Turn::Look => continue,
            };
            self.supervisor.metrics.core_turn(task, begun.elapsed());
        }
    }

    /// Every pod leaves the mesh, as when its label is taken off. Until the last worker has ended, or the deadline, or a
    /// second signal.
    async fn release(&mut self, signals: &mut Signals, deadline: Duration) {
        self.health.ends("the agent leaves the node");
        self.supervisor.release();
        self.until_empty(signals, RETIRE_GRACE + deadline).await;
    }

    /// Until the last worker has ended, or the deadline, or a second signal.
    async fn drain(&mut self, signals: &mut Signals, deadline: Duration) {
        self.health.ends("the agent is draining");
        self.supervisor.drain();
        // The workers end at their own deadline; this one is for a worker that is stuck.
        self.until_empty(signals, deadline + Duration::from_secs(1)).await;
    }

    async fn until_empty(&mut self, signals: &mut Signals, deadline: Duration) {
        let drained = async {
            let mut empty = self.supervisor.is_empty();
            let mut turns = ticks(TURN_EVERY);
            while !empty {
                tokio::select! {
                    Some(event) = self.events.recv() => empty = self.supervisor.forget_ended(event),
                    Some(question) = self.mail.recv() => self.supervisor.answer(question),
                    _ = turns.tick() => self.health.still(),
                }
            }
        };
        tokio::select! {
            () = signals.end() => tracing::warn!("told to end again: open connections are cut"),
            result = timeout(deadline, drained) => if result.is_err() {
                tracing::warn!("a worker did not end in time");
            },
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be received");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Whatever an agent put into the runtime's folders before goes, unless it stays where it is.
///
/// What fails is told, and the agent goes on: the plugin holds pods while no agent runs, and one that did not start for want of
/// it would make that the rule.
fn install(former: Option<Installation>, plugin: Option<&Installation>) {
    if let Some(former) = former.filter(|former| Some(former) != plugin)
        && let Err(error) = former.remove()
    {
        tracing::error!(
            "the former plugin of the container runtime cannot be removed, and the agent goes on: {error}"
        );
    }
    // Also when the file has been replaced meanwhile.
    let own = Path::new("/proc/self/exe");
    if let Some(Err(error)) = plugin.map(|plugin| plugin.install(own)) {
        tracing::error!(
            "--nri-plugin-dir: pods of the mesh will not be held while no agent runs, until an agent can install the plugin at its \
             start: {error:#}"
        );
    }
}

async fn next(calls: &mut Option<mpsc::Receiver<Call>>) -> Option<Call> {
    match calls {
        Some(calls) => calls.recv().await,
        None => pending().await,
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when.into()).await,
        None => pending().await,
    }
}

/// Every connection of every pod is a descriptor or two: take what the system gives.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(e) = raised {
        tracing::warn!("the limit of open files stays as it is: {e}");
    }
}

fn check_congestion(config: &Run) -> anyhow::Result<()> {
    let Some(name) = &config.hbone_congestion else { return Ok(()) };
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    if let Err(e) = socket.set_tcp_congestion(name.as_bytes()) {
        let known = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
        let known = known.unwrap_or_default();
        bail!("--hbone-congestion {name}: {e}; this kernel has: {}", known.trim());
    }
    Ok(())
}
