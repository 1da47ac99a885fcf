//! What people and machines ask the node: a mailbox in front of the supervisor, which alone knows.

use super::pod::State;
use super::supervisor::Supervisor;
use super::troubles::REASONS;
use crate::admin::{AuthzQuestion, BoxFuture, Introspect, Vitals};
use crate::decide::{Placement, explain};
use crate::kernel;
use crate::manifest::{Refusal, WatchState};
use crate::mesh::Mesh;
use crate::telemetry::{NodeMetrics, PathCounts, Watch};
use crate::worker::PanicIn;
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

/// A question to the supervisor, with where to put the answer.
pub enum Question {
    ConfigDump(oneshot::Sender<Value>),
    Audit(oneshot::Sender<Value>),
    Authz(AuthzQuestion, oneshot::Sender<Option<Result<Value, String>>>),
    /// Has the worker of a pod (`namespace/name`) panic; `None` unless the agent was started with `--panic-on-request`.
    Panic(String, PanicIn, oneshot::Sender<Option<Result<(), String>>>),
    /// Has the gauges say what is so now.
    Gauges(oneshot::Sender<()>),
}

/// The servers' end of the mailbox.
pub struct Mailbox {
    questions: mpsc::Sender<Question>,
    metrics: Arc<NodeMetrics>,
    refreshed: Mutex<Refreshed>,
}

/// How often the node core was asked for its gauges, in the second that began then.
struct Refreshed {
    since: Instant,
    times: u32,
}

/// How long a scrape waits for the node core. One that is busy leaves the gauges as they were; what is counted is true at any time.
const CORE_PATIENCE: Duration = Duration::from_millis(250);

/// How often a second scrapes may ask the node core: for 250 pods that is some 8 ms of its time.
const REFRESHES: u32 = 10;

impl Mailbox {
    pub fn new(questions: mpsc::Sender<Question>, metrics: Arc<NodeMetrics>) -> Self {
        Self { questions, metrics, refreshed: Mutex::new(Refreshed { since: Instant::now(), times: 0 }) }
    }

    /// Has the node core bring its gauges up to date, unless it has done so often enough.
    async fn refresh(&self) {
        let mut refreshed = self.refreshed.lock().await;
        let now = Instant::now();
        if now.duration_since(refreshed.since) >= Duration::from_secs(1) {
            *refreshed = Refreshed { since: now, times: 0 };
        }
        if refreshed.times < REFRESHES {
            refreshed.times += 1;
            self.ask(Question::Gauges).await;
        }
    }

    /// The default answer is given when the node is on its way out.
    async fn ask<T: Default>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> T {
        let (reply, answer) = oneshot::channel();
        if self.questions.send(question(reply)).await.is_err() {
            return T::default();
        }
        answer.await.unwrap_or_default()
    }
}

impl Introspect for Mailbox {
    fn config_dump(&self) -> BoxFuture<'_, Value> {
        Box::pin(self.ask(Question::ConfigDump))
    }

    fn audit(&self) -> BoxFuture<'_, Value> {
        Box::pin(self.ask(Question::Audit))
    }

    fn authz(&self, question: AuthzQuestion) -> BoxFuture<'_, Result<Value, String>> {
        Box::pin(async {
            let answer = self.ask(|reply| Question::Authz(question, reply)).await;
            answer.unwrap_or_else(|| Err("the agent is ending".to_owned()))
        })
    }

    fn panic(&self, pod: String, in_task: bool) -> BoxFuture<'_, Option<Result<(), String>>> {
        let place = if in_task { PanicIn::Task } else { PanicIn::Worker };
        Box::pin(self.ask(move |reply| Question::Panic(pod, place, reply)))
    }
}

impl Vitals for Mailbox {
    fn metrics(&self) -> BoxFuture<'_, String> {
        Box::pin(async {
            // It is too late for this scrape then, and not for the next one.
            let _ = timeout(CORE_PATIENCE, self.refresh()).await;
            self.metrics.encode()
        })
    }
}

impl Supervisor {
    /// Nobody waits any more when sending an answer fails.
    pub fn answer(&mut self, question: Question) {
        match question {
            Question::ConfigDump(reply) => {
                let dump = self.config_dump();
                tokio::spawn(async { reply.send(dump.await) });
            }
            Question::Audit(reply) => self.audit(Some(reply)),
            Question::Authz(question, reply) => {
                drop(reply.send(Some(authz(&self.mesh.borrow(), &self.placement.borrow(), &question))));
            }
            Question::Panic(pod, place, reply) => {
                let done = self.config.panic_on_request.then(|| self.panic(&pod, place));
                let _ = reply.send(done);
            }
            Question::Gauges(reply) => {
                self.refresh_gauges();
                let _ = reply.send(());
            }
        }
    }

    /// What has to happen before the node is ready. A pod that cannot be captured is not among it, unless an earlier agent
    /// could capture it and the pod itself is not in the way: its own connections are refused, and the others' go on. A
    /// certificate that will expire is, since that is a matter for people long before it is one of connections.
    pub fn waits_for(&self) -> Vec<String> {
        let mut waits_for = vec![];
        if self.mesh.borrow().generation == 0 {
            waits_for
                .push("objects that are whole: see manifests in /config_dump for what is wrong".to_owned());
        }
        if self.authority.trust.borrow().roots().next().is_none() {
            waits_for.push(format!(
                "the certificate authority's roots: {}",
                self.authority.errors.borrow().join("; ")
            ));
        }
        let starting = self.pods.iter().filter(|(_, pod)| pod.state == State::Starting);
        waits_for.extend(starting.map(|(name, _)| format!("the worker of pod {name}")));
        waits_for.extend(self.certificates_awaited());
        waits_for.extend(self.runtime.waits_for());
        waits_for.extend(self.probes_failing.clone());
        let troubles = self.troubles().into_iter().filter(|trouble| trouble.is_unready);
        waits_for.extend(troubles.map(|trouble| trouble.detail));
        waits_for.sort();
        waits_for
    }

    fn panic(&self, asked: &str, place: PanicIn) -> Result<(), String> {
        let pod = self.pods.iter().find(|(name, _)| name.to_string() == asked);
        let worker = pod.and_then(|(_, pod)| pod.worker.as_ref());
        worker.map(|worker| worker.panic(place)).ok_or_else(|| format!("{asked:?} is no pod with a worker"))
    }

    fn refresh_gauges(&self) {
        let manifests = self.manifests.borrow();
        self.metrics.set_manifests(manifests.generation, manifests.errors.len());
        self.metrics.watches().set(manifests.watches.iter().map(|watch| Watch {
            resource: watch.resource,
            connected: watch.state == WatchState::Connected,
            since: watch.since,
        }));
        self.count_trust();
        let troubles = self.troubles();
        let count = |reason| troubles.iter().filter(|trouble| trouble.reason == reason).count();
        self.metrics.set_degraded(REASONS.map(|reason| (reason, count(reason))));
        let kind = |refusal: &Refusal| format!("{:?}", refusal.kind);
        let refused = manifests.refused.iter().map(|r| [kind(r), r.namespace.clone(), r.name.clone()]);
        self.metrics.set_policies_refused(refused);
        for (name, pod) in &self.pods {
            if let Some(seconds) = pod.ready.as_ref().and_then(|ready| cpu_seconds(ready.thread_id)) {
                self.metrics.set_worker_cpu(name, seconds);
            }
            if let Some(Ok(counts)) = pod.cookie.map(|cookie| self.kernel.counts(cookie)) {
                let kernel::Counts { passed, refused, denied, foreign_source, forged, unattested } = counts;
                let counts = PathCounts { passed, refused, denied, foreign_source, forged, unattested };
                pod.metrics.path().set_counts(&counts);
            }
        }
        match self.kernel.failed_inserts() {
            Ok(failed) => self.metrics.set_failed_inserts(&failed),
            Err(e) => tracing::warn!("what the hooks could not write is not known: {e}"),
        }
    }
}

fn authz(mesh: &Mesh, placement: &Placement, question: &AuthzQuestion) -> Result<Value, String> {
    let AuthzQuestion { source, destination, port } = question;
    let explanation = explain(mesh, placement, source, destination, *port)?;
    Ok(
        json!({ "allowed": explanation.is_allowed(), "ways": explanation.lines(), "warnings": explanation.warnings }),
    )
}

/// Time on a CPU, from the scheduler: `/proc/PID/task/TID/schedstat`, first field, nanoseconds.
fn cpu_seconds(thread_id: i32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/self/task/{thread_id}/schedstat")).ok()?;
    let nanoseconds: u64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: OPS-3
    #[tokio::test]
    async fn a_scrape_waits_for_no_node_core_that_computes() {
        let (questions, mut mail) = mpsc::channel(8);
        let mailbox = Mailbox::new(questions, Arc::new(NodeMetrics::new("1")));
        let begun = Instant::now();
        assert!(mailbox.metrics().await.contains("pillion_"));
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        // Once it turns again it is asked no more than so often, however many scrapes there are.
        let core = tokio::spawn(async move {
            let mut asked = 0;
            while let Some(Question::Gauges(reply)) = mail.recv().await {
                asked += 1;
                let _ = reply.send(());
            }
            asked
        });
        let begun = Instant::now();
        for _ in 0..100 {
            mailbox.metrics().await;
        }
        let seconds = u32::try_from(begun.elapsed().as_secs()).unwrap() + 2;
        drop(mailbox);
        assert!(core.await.unwrap() <= REFRESHES * seconds);
    }
}
