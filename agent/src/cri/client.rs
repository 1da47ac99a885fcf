//! The agent's connection to the runtime: one task, which comes back whenever the runtime does.

use super::grpc::{Answers, Channel, GrpcError};
use super::messages::{
    ContainerEvent, DELETED, Empty, ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxFilter,
    PodSandboxStateValue, PodSandboxStatusRequest, PodSandboxStatusResponse, READY, STOPPED, VersionResponse,
};
use super::sandbox;
use crate::grpc::Code;
use crate::sandbox::{Call, Sandbox};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

/// Events may be lost, and nobody says so: all is heard anew this often.
const RESYNC: Duration = Duration::from_secs(30);

/// How often a runtime is asked that tells no events (CRI-O does not, unless `enable_pod_events` is set).
const POLL: Duration = Duration::from_secs(1);

/// How often a runtime that is not there is looked for, and the bound for one that is there and answers with errors.
const RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

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
    let mut known = None;
    loop {
        let mut was_heard = false;
        let Err(error) = serve(&socket, &calls, &mut known, &mut was_heard).await;
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
    known: &mut Option<Known>,
    was_heard: &mut bool,
) -> Result<Infallible, ClientError> {
    let channel = Channel::connect(socket).await?;
    let version: VersionResponse = channel.ask("Version", &Empty {}).await?;
    // Before the list: what comes after it is an event.
    let mut events = Some(channel.listen::<ContainerEvent>("GetContainerEvents", &Empty {}).await?);
    let mut runtime = Runtime { channel, calls, known };
    let name = format!("{} {}", version.runtime_name, version.runtime_version);
    runtime.tell(Call::Connected { runtime: name }).await?;
    runtime.list().await?;
    *was_heard = true;
    let mut ticks = every(RESYNC);
    loop {
        tokio::select! {
            event = next(&mut events) => match event {
                Ok(Some(event)) => runtime.on_event(event).await?,
                Ok(None) | Err(GrpcError::Status { code: Code::Unimplemented, .. }) => {
                    tracing::warn!(every = ?POLL, "the container runtime tells no events of pods: it is asked for them");
                    (events, ticks) = (None, every(POLL));
                }
                Err(error) => return Err(error.into()),
            },
            _ = ticks.tick() => runtime.list().await?,
        }
    }
}

/// What the node has been told, by id, with when it was made. Of one id a runtime always says the same: a pod that is known
/// stays so, whatever a runtime that has just begun fails to say of it.
type Known = BTreeMap<String, (i64, Sandbox)>;

struct Runtime<'a> {
    channel: Channel,
    calls: &'a mpsc::Sender<Call>,
    /// None before the first list.
    known: &'a mut Option<Known>,
}

impl Runtime<'_> {
    /// Hears of all sandboxes; tells them where they are others than the node knows.
    async fn list(&mut self) -> Result<(), ClientError> {
        let state = Some(PodSandboxStateValue { state: READY });
        let request = ListPodSandboxRequest { filter: Some(PodSandboxFilter { state }) };
        let listed: ListPodSandboxResponse = self.channel.ask("ListPodSandbox", &request).await?;
        let mut all = Known::new();
        for item in listed.items {
            let known = self.known.as_ref().and_then(|known| known.get(&item.id)).cloned();
            let found = match known {
                Some(known) if is_whole(&known) => Some(known),
                _ => self.look(&item.id).await?,
            };
            all.extend(found.map(|found| (item.id, found)));
        }
        if self.known.as_ref() != Some(&all) {
            let mut by_age: Vec<&(i64, Sandbox)> = all.values().collect();
            by_age.sort_by_key(|(created_at, _)| *created_at);
            let sandboxes = by_age.into_iter().map(|(_, sandbox)| sandbox.clone()).collect();
            self.tell(Call::All(sandboxes)).await?;
            *self.known = Some(all);
        }
        Ok(())
    }

    async fn on_event(&mut self, event: ContainerEvent) -> Result<(), ClientError> {
        let id = event.sandbox.map_or_else(|| event.container_id.clone(), |sandbox| sandbox.id);
        let is_its_own = id == event.container_id;
        let known = self.known.get_or_insert_default();
        if is_its_own && matches!(event.kind, STOPPED | DELETED) {
            return match known.remove(&id) {
                Some(_) => self.tell(Call::Gone(id)).await,
                None => Ok(()),
            };
        }
        // Events tell of containers, too; what they are in may have been missed.
        if known.get(&id).is_some_and(is_whole) {
            return Ok(());
        }
        let Some(found) = self.look(&id).await? else { return Ok(()) };
        self.tell(Call::Found(found.1.clone())).await?;
        self.known.get_or_insert_default().insert(id, found);
        Ok(())
    }

    /// What the runtime says of a sandbox; none of one that is none any more, or that is of no use.
    async fn look(&self, id: &str) -> Result<Option<(i64, Sandbox)>, ClientError> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let asked: Result<PodSandboxStatusResponse, _> = self.channel.ask("PodSandboxStatus", &request).await;
        let response = match asked {
            Ok(response) => response,
            Err(GrpcError::Status { code: Code::NotFound, .. }) => return Ok(None),
            // It has just begun.
            Err(error @ GrpcError::Status { code: Code::Unavailable, .. }) => return Err(error.into()),
            // One that is wrong keeps nobody from hearing of the others.
            Err(error @ GrpcError::Status { .. }) => {
                tracing::warn!(
                    sandbox = id,
                    "it is left out: the container runtime says nothing of it: {error}"
                );
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let Some(status) = response.status.as_ref().filter(|status| status.state == READY) else {
            return Ok(None);
        };
        let created_at = status.created_at;
        let (sandbox, why) = sandbox::read(response);
        let is_told = self.known.as_ref().is_some_and(|known| known.contains_key(id));
        if let Some(why) = why.filter(|_| !is_told) {
            tracing::warn!(sandbox = id, pod = %sandbox.pod, "where its network namespace is is not known: {why}");
        }
        Ok(Some((created_at, sandbox)))
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
