//! Writes on policies what is wrong with them, once for the whole cluster and without anybody who leads: each agent waits for
//! a while, by chance, and looks whether another has written it meanwhile.
//!
//! How long an agent waits is drawn as RFC 5401 (its `RandomBackoff`) draws it for receivers that must not all answer at once: most
//! agents wait for almost the whole delay and few wait for less, the fewer the more agents there are. So the delay
//! can be short, and of a thousand agents a few write before they see that one has written.

use super::condition::Verdict;
use super::store::Store;
use crate::manifest::Settings;
use kube::Client;
use rand::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(10);

/// When a status is written again that could not be written because the API server was away or busy.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The fields that it writes are known as this one's.
const MANAGER: &str = "pillion";

pub struct Statuses {
    client: Client,
    settings: Settings,
    delay: Duration,
    /// Policies to look at, and when.
    due: BTreeMap<Arc<str>, Instant>,
    /// What this agent has written: never twice, also where another (of another version) says it in other words.
    written: BTreeMap<Arc<str>, Verdict>,
    /// Policies whose status could not be written and is to be written again.
    failed: mpsc::UnboundedSender<Arc<str>>,
}

/// Policies whose status could not be written, as they become known.
pub type Failures = mpsc::UnboundedReceiver<Arc<str>>;

impl Statuses {
    /// Each failure is to be told to [`Self::again`].
    pub fn new(client: Client, settings: Settings, delay: Duration) -> (Self, Failures) {
        let (failed, failures) = mpsc::unbounded_channel();
        let statuses =
            Self { client, settings, delay, due: BTreeMap::new(), written: BTreeMap::new(), failed };
        (statuses, failures)
    }

    /// Notes which policies lack something.
    pub fn note(&mut self, store: &Store) {
        let mut lacking = BTreeMap::new();
        let mut written = BTreeMap::new();
        let mut nodes = None;
        for policy in store.policies() {
            if let Some((name, verdict)) = self.written.remove_entry(policy.name) {
                written.insert(name, verdict);
            }
            let Some(verdict) = policy.lacks(&self.settings) else { continue };
            if written.get(policy.name).is_none_or(|before| !before.says(&verdict)) {
                let due = self.due.get(policy.name).copied().unwrap_or_else(|| {
                    let agents = *nodes.get_or_insert_with(|| store.nodes());
                    Instant::now() + wait(self.delay, agents, rand::rng().random_range(0.0..=1.0))
                });
                lacking.insert(policy.name.clone(), due);
            }
        }
        (self.due, self.written) = (lacking, written);
    }

    /// When to look next.
    pub fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// Notes that a status could not be written and is to be written again.
    pub fn again(&mut self, policy: Arc<str>) {
        self.written.remove(&policy);
        self.due.insert(policy, Instant::now() + AGAIN_AFTER);
    }

    /// Writes what is still lacking of those whose time has come.
    pub fn write(&mut self, store: &Store) {
        let now = Instant::now();
        for policy in store.policies() {
            if self.due.get(policy.name).is_none_or(|due| *due > now) {
                continue;
            }
            self.due.remove(policy.name);
            let Some(verdict) = policy.lacks(&self.settings) else { continue };
            let Some((namespace, name)) = policy.namespace_and_name() else { continue };
            let object = verdict.object(policy.resource, namespace, name);
            let path = format!("{}/{name}/status", policy.resource.in_namespace(namespace));
            let write = apply(self.client.clone(), policy.name.clone(), path, object.to_string());
            let (policy_name, failed) = (policy.name.clone(), self.failed.clone());
            tokio::spawn(async move {
                if write.await == Written::NotNow {
                    // Whoever would hear of it has ended.
                    let _ = failed.send(policy_name);
                }
            });
            self.written.insert(policy.name.clone(), verdict);
        }
        // Of those that are gone.
        self.due.retain(|_, due| *due > now);
    }
}

/// How long one of so many agents waits; `chance` is from 0 to 1.
fn wait(longest: Duration, agents: usize, chance: f64) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "no cluster has 2^52 nodes")]
    let lambda = (agents.max(1) as f64).ln() + 1.0;
    longest.mul_f64((chance * lambda.exp_m1()).ln_1p() / lambda)
}

#[derive(Debug, PartialEq, Eq)]
enum Written {
    /// Or it never will be: others own the field, the policy is gone, or the agent has no right to.
    Done,
    /// The API server is away or busy.
    NotNow,
}

async fn apply(client: Client, policy: Arc<str>, path: String, object: String) -> Written {
    let request = http::Request::patch(format!("{path}?fieldManager={MANAGER}"))
        .header("content-type", "application/apply-patch+yaml")
        .body(object.into_bytes());
    let Ok(request) = request else { return Written::Done };
    match timeout(PATIENCE, client.request_text(request)).await {
        Ok(Ok(_)) => {
            tracing::info!(%policy, "its status is written");
            Written::Done
        }
        Ok(Err(error)) => {
            tracing::warn!(%policy, "its status cannot be written: {error}");
            match error {
                kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
                    Written::Done
                }
                _ => Written::NotNow,
            }
        }
        Err(_) => {
            tracing::warn!(%policy, "its status cannot be written: the API server does not answer");
            Written::NotNow
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// From the first write until an agent sees it.
    const UNTIL_SEEN: Duration = Duration::from_millis(50);

    #[test]
    fn within_the_delay_one_agent_of_many_writes_and_few_write_with_it() {
        const DELAY: Duration = Duration::from_millis(1500);
        let mut chance = StdRng::seed_from_u64(1);
        for agents in [1, 2, 10, 100, 1_000, 10_000] {
            const ROUNDS: usize = 200;
            let mut writers = 0;
            for _ in 0..ROUNDS {
                let waits = (0..agents).map(|_| wait(DELAY, agents, chance.random_range(0.0..=1.0)));
                let waits: Vec<_> = waits.collect();
                let first = *waits.iter().min().unwrap();
                assert!(first <= DELAY, "{agents}: {first:?}");
                writers += waits.iter().filter(|wait| **wait <= first + UNTIL_SEEN).count();
            }
            assert!(writers <= 4 * ROUNDS, "of {agents} agents {writers} write in {ROUNDS} rounds");
        }
    }

    #[test]
    fn no_agent_waits_longer_than_the_delay() {
        for agents in [0, 1, 1_000] {
            assert_eq!(wait(Duration::from_secs(2), agents, 0.0), Duration::ZERO);
            let longest = wait(Duration::from_secs(2), agents, 1.0).as_secs_f64();
            assert!((longest - 2.0).abs() < 1e-6, "{agents}: {longest}");
        }
    }
}
