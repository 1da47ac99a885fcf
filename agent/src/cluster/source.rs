//! The mesh that a cluster's objects describe.

use super::connect::{ConnectError, connect};
use super::events::{self, PodEvents};
use super::options::ClusterOptions;
use super::progress::failing_since;
use super::resources::RESOURCES;
use super::status::Statuses;
use super::store::{Item, Store};
use super::taint;
use super::watch::{self, News, What};
use crate::manifest::{PolicyKind, Published, Publisher, Settings, WatchState, WatchStatus};
use prometheus::IntCounter;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch as value};
use tokio::time::{Instant, sleep_until};

/// How long the first change waits for those that belong to it, as for manifests.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// After a mesh that took long to make the next one waits so many times as long: a cluster that never rests costs a node a
/// fifth of a core at most.
const REST: u32 = 4;

/// News that wait to be taken in; more wait at the API server.
const QUEUE: usize = 256;

/// The mesh of a cluster, kept current while this value lives.
///
/// All of it is on a thread of its own: what a cluster tells at once may take a second to read.
pub struct ClusterSource {
    published: Published,
    events: PodEvents,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the agent writes to the API server, beside what it reads.
pub struct Writes {
    pub options: ClusterOptions,
    /// What the node waits for; empty once it is ready.
    pub waits_for: value::Receiver<Vec<String>>,
    /// Counts events that are dropped.
    pub events_dropped: IntCounter,
}

impl ClusterSource {
    /// Watches the API server that the kubeconfig names, or else the one whose pod this is. One that is away is no reason not
    /// to start: there is no mesh until it is there, and the status says so.
    ///
    /// # Errors
    /// When nothing says where the API server is, or how to speak with it.
    pub async fn start(
        kubeconfig: Option<PathBuf>,
        settings: Settings,
        writes: Writes,
    ) -> Result<Self, ConnectError> {
        let (node, dropped) = (settings.node.clone(), writes.events_dropped.clone());
        let (events, told) = PodEvents::new(dropped.clone());
        let (publisher, published) = Publisher::new(settings.clone());
        let (stop, stopped) = oneshot::channel();
        let (begun, begins) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("kube".into()).spawn(move || {
            runtime.block_on(async {
                let client = match connect(kubeconfig.as_deref()).await {
                    Ok(client) => client,
                    Err(error) => return drop(begun.send(Err(error))),
                };
                // Whoever waits for this has gone, and drops the other end of `stopped`.
                let _ = begun.send(Ok(()));
                tokio::spawn(events::send(client.clone(), node.clone(), told, dropped));
                if let Some(key) = writes.options.startup_taint {
                    tokio::spawn(taint::lift(client.clone(), node, key, writes.waits_for));
                }
                tokio::select! {
                    _ = stopped => {}
                    () = follow(client, publisher, settings, writes.options.status_delay) => {}
                }
            });
        })?;
        let source = Self { published, events, stop: Some(stop), thread: Some(thread) };
        match begins.await {
            Ok(Ok(())) => Ok(source),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ConnectError::Client("its thread ended".into())),
        }
    }

    pub fn published(&self) -> &Published {
        &self.published
    }

    /// Where to tell of pods.
    pub fn events(&self) -> &PodEvents {
        &self.events
    }
}

impl Drop for ClusterSource {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panicked and said so.
            let _ = thread.join();
        }
    }
}

async fn follow(client: kube::Client, publisher: Publisher, settings: Settings, status_delay: Duration) {
    let (sender, mut news) = mpsc::channel(QUEUE);
    for (index, resource) in RESOURCES.iter().enumerate() {
        // What an earlier agent knew of was there: its kind is not taken for gone at once.
        let was_there = PolicyKind::of(resource.kind).is_some_and(|kind| publisher.knows(kind));
        tokio::spawn(watch::follow(client.clone(), index, resource, was_there, sender.clone()));
    }
    drop(sender);
    let mut cluster = Cluster::new(publisher);
    let (mut statuses, mut failures) = Statuses::new(client, settings, status_delay);
    loop {
        tokio::select! {
            received = news.recv() => match received {
                Some(received) => cluster.take(received),
                None => return,
            },
            () = sleep_until(cluster.due.unwrap_or_else(Instant::now)), if cluster.due.is_some() => {
                cluster.publish();
                statuses.note(&cluster.store);
            }
            Some(policy) = failures.recv() => statuses.again(policy),
            () = sleep_until(statuses.next().unwrap_or_else(Instant::now)), if statuses.next().is_some() => {
                statuses.write(&cluster.store);
            }
        }
    }
}

struct Cluster {
    store: Store,
    watches: Vec<WatchStatus>,
    publisher: Publisher,
    /// When the next mesh is to be made; `None` while nothing has changed.
    due: Option<Instant>,
    /// Before this there is none.
    rests_until: Instant,
}

impl Cluster {
    fn new(publisher: Publisher) -> Self {
        let since = OffsetDateTime::now_utc();
        let watches = RESOURCES.iter().map(|resource| WatchStatus {
            resource: resource.name,
            state: WatchState::Disconnected,
            since,
            failing_since: None,
            error: None,
        });
        let cluster = Self {
            store: Store::default(),
            watches: watches.collect(),
            publisher,
            due: None,
            rests_until: Instant::now(),
        };
        cluster.publisher.watches(cluster.watches.clone());
        cluster
    }

    fn take(&mut self, News { resource, what }: News<Item>) {
        let before = self.watches[resource].failing_since;
        let failing = failing_since(before, &what, OffsetDateTime::now_utc());
        if failing != before {
            self.watches[resource].failing_since = failing;
            self.publisher.watches(self.watches.clone());
        }
        let has_changed = match what {
            What::All(items) => self.store.replace(resource, items),
            What::Put(item) => self.store.put(resource, item),
            What::Deleted(item) => self.store.delete(resource, &item),
            What::Current => false,
            What::Connected => {
                self.watch_is(resource, WatchState::Connected, None);
                false
            }
            What::Disconnected(error) => {
                self.watch_is(resource, WatchState::Disconnected, Some(error));
                false
            }
            What::Absent => {
                self.watch_is(resource, WatchState::Absent, None);
                self.store.replace(resource, Vec::new())
            }
        };
        if has_changed && self.store.is_whole() {
            self.publisher.heard(OffsetDateTime::now_utc());
        }
        if has_changed && self.store.is_whole() && self.due.is_none() {
            self.due = Some((Instant::now() + DEBOUNCE).max(self.rests_until));
        }
    }

    fn publish(&mut self) {
        let begun = Instant::now();
        let absent: Vec<PolicyKind> = RESOURCES
            .iter()
            .zip(&self.watches)
            .filter(|(_, watch)| watch.state == WatchState::Absent)
            .filter_map(|(resource, _)| PolicyKind::of(resource.kind))
            .collect();
        self.publisher.apart(self.store.objects(), self.store.errors(), &absent);
        let now = Instant::now();
        self.due = None;
        self.rests_until = now + (now - begun) * REST;
    }

    /// Says in what state a watch is, once for each change.
    fn watch_is(&mut self, resource: usize, state: WatchState, error: Option<String>) {
        let watch = &mut self.watches[resource];
        if watch.state != state {
            match state {
                WatchState::Connected => {
                    tracing::info!(resource = watch.resource, "the API server is watched")
                }
                WatchState::Absent => tracing::info!(
                    resource = watch.resource,
                    "the cluster does not have this resource; it is looked for again"
                ),
                WatchState::Disconnected => {}
            }
            watch.since = OffsetDateTime::now_utc();
        }
        if let Some(error) = &error
            && (watch.state != state || watch.error.is_none())
        {
            tracing::warn!(
                resource = watch.resource,
                "the API server is away, and the mesh stays as it is: {error}"
            );
        }
        watch.state = state;
        watch.error = error;
        self.publisher.watches(self.watches.clone());
    }
}
