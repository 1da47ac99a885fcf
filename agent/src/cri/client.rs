//! The agent's connection to the runtime: one task, which comes back whenever the runtime does.

use super::grpc::{Answers, Channel, GrpcError};
use super::messages::{
    ContainerEvent, DELETED, Empty, ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxFilter,
    PodSandboxStateValue, PodSandboxStatusRequest, PodSandboxStatusResponse, READY, STOPPED, VersionResponse,
};
use super::sandbox;
use crate::grpc::Code;
use crate::sandbox::{Call, Sandbox};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

/// Events may be lost, and nobody says so: all is heard anew this often.
const RESYNC: Duration = Duration::from_secs(30);

/// How often a runtime is asked that tells no events (CRI-O does not, unless `enable_pod_events` is set).
const POLL: Duration = Duration::from_secs(1);

/// How often a runtime that is not there is looked for, and the bound for one that is there and answers with errors.
const RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// Sandboxes that the runtime is asked about at once.
const AT_ONCE: usize = 64;

const QUEUE: usize = 64;

/// The connection, kept up while this value lives.
pub struct Client {
    task: JoinHandle<()>,
}

impl Client {
    /// Connects on the caller's tokio runtime, now and whenever the container runtime was away.
    pub fn start(socket: PathBuf) -> (Self, mpsc::Receiver<Call>) {
        tracing::warn!(
            "pods are found by CRI, best effort: what a pod does first may be plain, and nobody holds pods while the agent is \
             away; give --nri-socket where the container runtime has NRI"
        );
        let (calls, received) = mpsc::channel(QUEUE);
        (Self { task: tokio::spawn(keep(socket, calls)) }, received)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, thiserror::Error)]
enum ClientError {
    #[error("{0}")]
    Grpc(#[from] GrpcError),
    #[error("the agent ends")]
    NodeEnded,
}

async fn keep(socket: PathBuf, calls: mpsc::Sender<Call>) {
    let mut wait = RETRY;
    let mut told = String::new();
    let mut memory = Memory::default();
    loop {
        let mut was_heard = false;
        let Err(error) = serve(&socket, &calls, &mut memory, &mut was_heard).await;
        if matches!(error, ClientError::NodeEnded) {
            return;
        }
        let reason = format!("--cri-socket {}: {error}", socket.display());
        if was_heard || reason != told {
            tracing::warn!("the container runtime is away: {reason}");
            if calls.send(Call::Lost(reason.clone())).await.is_err() {
                return;
            }
            told = reason;
        }
        let is_there = !was_heard && !matches!(error, ClientError::Grpc(GrpcError::Connect(_)));
        wait = if is_there { (wait * 2).min(LONGEST_RETRY) } else { RETRY };
        sleep(wait).await;
    }
}

/// One connection, to its end.
async fn serve(
    socket: &Path,
    calls: &mpsc::Sender<Call>,
    memory: &mut Memory,
    was_heard: &mut bool,
) -> Result<Infallible, ClientError> {
    let channel = Arc::new(Channel::connect(socket).await?);
    let version: VersionResponse = channel.ask("Version", &Empty {}).await?;
    // Before the list: what comes after it is an event.
    let mut events = Some(channel.listen::<ContainerEvent>("GetContainerEvents", &Empty {}).await?);
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let mut runtime =
        Runtime { channel, calls, memory, at_once, looks: JoinSet::new(), asked: BTreeSet::new() };
    let name = format!("{} {}", version.runtime_name, version.runtime_version);
    runtime.tell(Call::Connected { runtime: name }).await?;
    runtime.list().await?;
    let mut ticks = every(RESYNC);
    loop {
        if runtime.asked.is_empty() {
            if !runtime.memory.is_told {
                runtime.tell_all().await?;
            }
            *was_heard = true;
        }
        tokio::select! {
            event = next(&mut events) => match event {
                Ok(Some(event)) => runtime.on_event(event).await?,
                Ok(None) | Err(GrpcError::Status { code: Code::Unimplemented, .. }) => {
                    tracing::warn!(every = ?POLL, "the container runtime tells no events of pods: it is asked for them");
                    (events, ticks) = (None, every(POLL));
                }
                Err(error) => return Err(error.into()),
            },
            Some(look) = runtime.looks.join_next() => {
                // A task of this kind is not aborted, and does not panic.
                let Ok((id, status)) = look else { continue };
                runtime.on_status(id, status).await?;
            }
            _ = ticks.tick() => runtime.list().await?,
        }
    }
}

/// What the node has been told, by id, with when it was made. Of one id a runtime always says the same: a pod that is known
/// stays so, whatever a runtime that has just begun fails to say of it.
type Known = BTreeMap<String, (i64, Sandbox)>;

#[derive(Default)]
struct Memory {
    known: Known,
    /// Whether the node has been told of all at least once.
    is_told: bool,
}

struct Runtime<'a> {
    channel: Arc<Channel>,
    calls: &'a mpsc::Sender<Call>,
    memory: &'a mut Memory,
    at_once: Arc<Semaphore>,
    /// The runtime is asked about sandboxes, each by itself: one of which it says nothing keeps nobody from hearing of the others.
    looks: JoinSet<(String, Result<PodSandboxStatusResponse, GrpcError>)>,
    /// The sandboxes of `looks` that are wanted still.
    asked: BTreeSet<String>,
}

impl Runtime<'_> {
    /// Hears which sandboxes there are; looks at those that the node does not know.
    async fn list(&mut self) -> Result<(), ClientError> {
        let state = Some(PodSandboxStateValue { state: READY });
        let request = ListPodSandboxRequest { filter: Some(PodSandboxFilter { state }) };
        let listed: ListPodSandboxResponse = self.channel.ask("ListPodSandbox", &request).await?;
        let listed: BTreeSet<String> = listed.items.into_iter().map(|item| item.id).collect();
        let before = self.memory.known.len();
        self.memory.known.retain(|id, _| listed.contains(id));
        self.asked.retain(|id| listed.contains(id));
        if self.memory.is_told && self.memory.known.len() < before {
            self.tell_all().await?;
        }
        for id in listed {
            self.look(id);
        }
        Ok(())
    }

    async fn on_event(&mut self, event: ContainerEvent) -> Result<(), ClientError> {
        let id = event.sandbox.map_or_else(|| event.container_id.clone(), |sandbox| sandbox.id);
        let is_its_own = id == event.container_id;
        if is_its_own && matches!(event.kind, STOPPED | DELETED) {
            self.asked.remove(&id);
            return match self.memory.known.remove(&id) {
                Some(_) => self.tell(Call::Gone(id)).await,
                None => Ok(()),
            };
        }
        // Events tell of containers, too; what they are in may have been missed.
        self.look(id);
        Ok(())
    }

    /// Asks what the runtime says of a sandbox, unless all is known that it may say, or it is being asked.
    fn look(&mut self, id: String) {
        let is_known = self.memory.known.get(&id).is_some_and(is_whole);
        if is_known || !self.asked.insert(id.clone()) {
            return;
        }
        let (channel, at_once) = (self.channel.clone(), self.at_once.clone());
        self.looks.spawn(async move {
            // It is never closed.
            let _place = at_once.acquire().await;
            let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: true };
            let status = channel.ask("PodSandboxStatus", &request).await;
            (id, status)
        });
    }

    /// Tells the node of the sandbox, if it is of any use.
    async fn on_status(
        &mut self,
        id: String,
        status: Result<PodSandboxStatusResponse, GrpcError>,
    ) -> Result<(), ClientError> {
        // It has ended meanwhile.
        if !self.asked.remove(&id) {
            return Ok(());
        }
        let response = match status {
            Ok(response) => response,
            Err(GrpcError::Status { code: Code::NotFound, .. }) => return Ok(()),
            // It has just begun, and may say the same of all.
            Err(error @ GrpcError::Status { code: Code::Unavailable, .. }) if !self.memory.is_told => {
                return Err(error.into());
            }
            // The next list, or event, has it asked again.
            Err(error @ (GrpcError::Status { .. } | GrpcError::Late(_) | GrpcError::Answer { .. })) => {
                tracing::warn!(
                    sandbox = id,
                    "it is left out: the container runtime says nothing of it: {error}"
                );
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let Some(status) = response.status.as_ref().filter(|status| status.state == READY) else {
            return Ok(());
        };
        let created_at = status.created_at;
        let (sandbox, why) = sandbox::read(response);
        let found = (created_at, sandbox.clone());
        let before = self.memory.known.insert(id.clone(), found.clone());
        if let Some(why) = why.filter(|_| before.is_none()) {
            tracing::warn!(sandbox = id, pod = %sandbox.pod, "where its network namespace is is not known: {why}");
        }
        if before == Some(found) {
            return Ok(());
        }
        let is_newest = |(made, other): &(i64, Sandbox)| other.pod != sandbox.pod || *made <= created_at;
        match self.memory.known.values().all(is_newest) {
            true => self.tell(Call::Found(sandbox)).await,
            false => self.tell_all().await,
        }
    }

    async fn tell_all(&mut self) -> Result<(), ClientError> {
        let mut by_age: Vec<&(i64, Sandbox)> = self.memory.known.values().collect();
        by_age.sort_by_key(|(created_at, _)| *created_at);
        let sandboxes = by_age.into_iter().map(|(_, sandbox)| sandbox.clone()).collect();
        self.memory.is_told = true;
        self.tell(Call::All(sandboxes)).await
    }

    async fn tell(&self, call: Call) -> Result<(), ClientError> {
        self.calls.send(call).await.map_err(|_| ClientError::NodeEnded)
    }
}

/// Whether nothing more may be said of a sandbox later: where its network is.
fn is_whole((_, sandbox): &(i64, Sandbox)) -> bool {
    sandbox.netns.is_some() || sandbox.on_host
}

async fn next(events: &mut Option<Answers<ContainerEvent>>) -> Result<Option<ContainerEvent>, GrpcError> {
    match events {
        Some(events) => events.next().await,
        None => pending().await,
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
