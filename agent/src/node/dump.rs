//! `/config_dump`: what the node knows, wants and has.

use super::pod::{Pod, State};
use super::supervisor::Supervisor;
use crate::manifest::ManifestStatus;
use crate::mesh::{Action, Mesh, Policy};
use crate::worker::{Report, Worker};
use futures::future::join_all;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tokio::task::spawn_blocking;

/// A worker's line in the dump.
#[derive(Serialize)]
struct WorkerDump {
    namespace: String,
    pod: String,
    state: &'static str,
    reason: Option<String>,
    netns: Option<PathBuf>,
    netns_cookie: Option<u64>,
    /// Whether connections from and to pods of this node may be direct.
    direct: bool,
    not_direct: Option<String>,
    #[serde(flatten)]
    report: Option<Report>,
}

impl Supervisor {
    /// What only the node core knows is written down now. Workers are asked, and what is large is put into words, while it goes on.
    pub(super) fn config_dump(&self) -> impl Future<Output = Value> + Send + use<> {
        let mesh = self.mesh.borrow().clone();
        let manifests = self.manifests.borrow().clone();
        let mut pods: Vec<_> = self.pods.iter().collect();
        pods.sort_by_key(|(name, _)| *name);
        let workers = join_all(pods.into_iter().map(|(_, pod)| worker_dump(pod)));
        let own = json!({
            "node": self.config.node,
            "version": env!("CARGO_PKG_VERSION"),
            "generation": mesh.generation,
            "orphans": self.orphans(),
            "degraded": self.troubles(),
            "authority": self.authority.report(),
            "runtime": self.runtime.report(),
            "kernel": { "links": self.kernel.links(), "pods": self.kernel.captured().unwrap_or_default() },
        });
        async {
            let workers = workers.await;
            let dump = spawn_blocking(move || whole(own, &mesh, &manifests, &workers));
            // It fails when the agent ends.
            dump.await.unwrap_or_default()
        }
    }
}

fn whole(mut dump: Value, mesh: &Mesh, manifests: &ManifestStatus, workers: &[WorkerDump]) -> Value {
    let mut workloads: Vec<_> = mesh.workloads.values().collect();
    workloads.sort_by(|a, b| a.name.cmp(&b.name));
    let mut services: Vec<_> = mesh.services.values().collect();
    services.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    services.dedup_by(|a, b| (&a.namespace, &a.name) == (&b.namespace, &b.name));
    let policies: Vec<_> = mesh.policies.values().map(|policy| policy_dump(policy)).collect();
    let vanished: BTreeMap<_, _> =
        mesh.vanished.iter().map(|(ip, pod)| (ip.to_string(), pod.workload.name.to_string())).collect();
    dump["vanished"] = json!(vanished);
    dump["manifests"] = json!(manifests);
    dump["workloads"] = json!(workloads);
    dump["services"] = json!(services);
    dump["authorization_policies"] = json!(policies);
    dump["workers"] = json!(workers);
    dump
}

/// What is in force of a policy, and what of it waits for layer 7.
fn policy_dump(policy: &Policy) -> Value {
    let http_fields_mean = match policy.action {
        Action::Allow => "at layer 4 the rules that have them match nothing",
        Action::Deny | Action::Custom | Action::Audit => {
            "at layer 4 the rules match without them, and so match more"
        }
    };
    json!({
        "name": policy.name,
        "action": policy.action,
        "dry_run": policy.dry_run,
        "rules_in_force": policy.rules.iter().map(|rule| rule.index).collect::<Vec<_>>(),
        "http_fields": policy.http_fields,
        "http_fields_mean": (!policy.http_fields.is_empty()).then_some(http_fields_mean),
        "provider": policy.provider,
        "stands_in": policy.stands_in,
    })
}

fn worker_dump(pod: &Pod) -> impl Future<Output = WorkerDump> + Send + use<> {
    let report = pod.worker.as_ref().map(Worker::report);
    let name = &pod.workload.name;
    let mut dump = WorkerDump {
        namespace: name.namespace.clone(),
        pod: name.name.clone(),
        state: pod.state_name(),
        reason: match &pod.state {
            State::Failed { reason, .. } => Some(reason.clone()),
            _ => None,
        },
        netns: pod.workload.netns.clone(),
        netns_cookie: pod.cookie,
        direct: pod.direct.is_ok(),
        not_direct: pod.direct.as_ref().err().map(ToString::to_string),
        report: None,
    };
    async {
        // A worker that does not answer is left out.
        if let Some(report) = report {
            dump.report = report.await.ok().flatten();
        }
        dump
    }
}
