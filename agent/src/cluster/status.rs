//! Writes on policies what is wrong with them, once for the whole cluster and without anybody who leads: each agent waits for
//! a while, by chance, and looks whether another has written it meanwhile.

use super::condition::Verdict;
use super::store::Store;
use kube::Client;
use rand::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(10);

/// The fields that it writes are known as this one's.
const MANAGER: &str = "pillion";

pub struct Statuses {
    client: Client,
    delay: Duration,
    /// Policies to look at, and when.
    due: BTreeMap<Arc<str>, Instant>,
    /// What this agent has written: never twice, also where another (of another version) says it in other words.
    written: BTreeMap<Arc<str>, Verdict>,
}

impl Statuses {
    pub fn new(client: Client, delay: Duration) -> Self {
        Self { client, delay, due: BTreeMap::new(), written: BTreeMap::new() }
    }

    /// Notes which policies lack something.
    pub fn note(&mut self, store: &Store) {
        let mut lacking = BTreeMap::new();
        let mut written = BTreeMap::new();
        for policy in store.policies() {
            if let Some((name, verdict)) = self.written.remove_entry(policy.name) {
                written.insert(name, verdict);
            }
            let Some(verdict) = policy.lacks() else { continue };
            if written.get(policy.name).is_none_or(|before| !before.says(&verdict)) {
                let after = || Instant::now() + self.delay.mul_f64(rand::rng().random_range(0.0..=1.0));
                let due = self.due.get(policy.name).copied().unwrap_or_else(after);
                lacking.insert(policy.name.clone(), due);
            }
        }
        (self.due, self.written) = (lacking, written);
    }

    /// When to look next.
    pub fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// Writes what is still lacking of those whose time has come.
    pub fn write(&mut self, store: &Store) {
        let now = Instant::now();
        for policy in store.policies() {
            if self.due.get(policy.name).is_none_or(|due| *due > now) {
                continue;
            }
            self.due.remove(policy.name);
            let Some(verdict) = policy.lacks() else { continue };
            let Some((namespace, name)) = policy.namespace_and_name() else { continue };
            let object = verdict.object(policy.resource, namespace, name);
            let path = format!("{}/{name}/status", policy.resource.in_namespace(namespace));
            tokio::spawn(apply(self.client.clone(), policy.name.clone(), path, object.to_string()));
            self.written.insert(policy.name.clone(), verdict);
        }
        // Of those that are gone.
        self.due.retain(|_, due| *due > now);
    }
}

/// What fails is not tried again: the next change, or another agent, does. A conflict says that others own the field.
async fn apply(client: Client, policy: Arc<str>, path: String, object: String) {
    let request = http::Request::patch(format!("{path}?fieldManager={MANAGER}"))
        .header("content-type", "application/apply-patch+yaml")
        .body(object.into_bytes());
    let Ok(request) = request else { return };
    match timeout(PATIENCE, client.request::<serde_json::Value>(request)).await {
        Ok(Ok(_)) => tracing::info!(%policy, "its status is written"),
        Ok(Err(error)) => tracing::warn!(%policy, "its status cannot be written: {error}"),
        Err(_) => tracing::warn!(%policy, "its status cannot be written: the API server does not answer"),
    }
}
