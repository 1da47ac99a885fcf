//! What the node counts, and the scrape that gathers it with what the workers count.

use super::label_sets::LabelSets;
use super::path_metrics::follow;
use super::register::register;
use super::watch_metrics::WatchMetrics;
use crate::mesh::PodName;
use prometheus::proto::MetricFamily;
use prometheus::{
    Counter, CounterVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;

/// Buckets. An audit of 250 pods takes 20 ms at the most.
const TURN_SECONDS: [f64; 8] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0];

/// The node's metrics and the registries of its workers.
pub struct NodeMetrics {
    registry: Registry,
    worker_cpu: CounterVec,
    audit_repairs: IntCounterVec,
    core_turns: HistogramVec,
    captured_pods: IntGauge,
    orphaned_pods: IntGauge,
    degraded: IntGaugeVec,
    mesh_generation: IntGauge,
    manifest_errors: IntGauge,
    ca_requests: IntCounterVec,
    ca_errors: IntGauge,
    root_expiry: IntGaugeVec,
    revoked: IntGauge,
    policies_refused: IntGaugeVec,
    access_log_dropped: IntCounter,
    direct_events_lost: IntCounter,
    pod_events_dropped: IntCounter,
    denials_lost: IntCounter,
    failed_inserts: IntCounterVec,
    watches: WatchMetrics,
    label_sets: LabelSets,
    workers: Mutex<BTreeMap<PodName, Registry>>,
}

impl NodeMetrics {
    /// `version` is the agent's own.
    pub fn new(version: &str) -> Self {
        let registry = Registry::new();
        let gauge =
            |name: &str, help: &str| register(&registry, IntGauge::new(name, help).expect("a valid name"));
        let counter =
            |name: &str, help: &str| register(&registry, IntCounter::new(name, help).expect("a valid name"));
        let build_info = Opts::new("pillion_build_info", "The agent's version; always 1.");
        let build_info =
            register(&registry, IntGaugeVec::new(build_info, &["version"]).expect("a valid name"));
        build_info.with_label_values(&[version]).set(1);
        let refused = Opts::new(
            "pillion_policies_refused",
            "Policies that cannot be read now; what is in force instead, /config_dump says.",
        );
        let degraded = Opts::new(
            "pillion_degraded",
            "What is not as it should be now, by kind; /config_dump says what it is.",
        );
        let cpu = Opts::new("pillion_worker_cpu_seconds_total", "CPU time that a pod's worker has used.");
        let repairs = Opts::new("pillion_audit_repairs_total", "What the audit found missing and repaired.");
        let turns = HistogramOpts::new(
            "pillion_node_core_turn_seconds",
            "How long the node's core was busy with one thing, and with nothing else meanwhile.",
        );
        let turns = turns.buckets(TURN_SECONDS.to_vec());
        let requests =
            Opts::new("pillion_ca_requests_total", "Signing requests of workers, by what came of them.");
        let inserts = Opts::new(
            "pillion_kernel_inserts_failed_total",
            "What could not be written to a map of the hooks, by the programs or by the agent; each time something was refused.",
        );
        let expiry = Opts::new(
            "pillion_root_expiry_timestamp_seconds",
            "When a root that is trusted expires, in seconds since 1970; by the beginning of its SHA-256.",
        );
        Self {
            worker_cpu: register(
                &registry,
                CounterVec::new(cpu, &["namespace", "pod"]).expect("a valid name"),
            ),
            audit_repairs: register(&registry, IntCounterVec::new(repairs, &["what"]).expect("a valid name")),
            core_turns: register(&registry, HistogramVec::new(turns, &["task"]).expect("a valid name")),
            captured_pods: gauge("pillion_captured_pods", "Pods of this node that are in the mesh."),
            orphaned_pods: gauge(
                "pillion_pods_orphaned",
                "Pods that an agent has captured, that are still there, and that nobody speaks of.",
            ),
            degraded: register(&registry, IntGaugeVec::new(degraded, &["reason"]).expect("a valid name")),
            mesh_generation: gauge("pillion_mesh_generation", "The generation of the mesh in use."),
            manifest_errors: gauge("pillion_manifest_errors", "What is wrong with the manifests now."),
            ca_requests: register(
                &registry,
                IntCounterVec::new(requests, &["result"]).expect("a valid name"),
            ),
            ca_errors: gauge("pillion_ca_errors", "What is wrong with the certificate authority now."),
            root_expiry: register(&registry, IntGaugeVec::new(expiry, &["root"]).expect("a valid name")),
            revoked: gauge("pillion_revoked_certificates", "Certificates that the CRLs in use revoke."),
            policies_refused: register(
                &registry,
                IntGaugeVec::new(refused, &["kind", "policy_namespace", "policy"]).expect("a valid name"),
            ),
            access_log_dropped: counter(
                "pillion_access_log_dropped_total",
                "Access log lines that could not be written.",
            ),
            direct_events_lost: counter(
                "pillion_direct_events_lost_total",
                "Openings and ends of direct connections that the kernel had no room to tell of.",
            ),
            pod_events_dropped: counter(
                "pillion_pod_events_dropped_total",
                "Kubernetes Events on pods that were not written: too many at once, or no API server.",
            ),
            denials_lost: counter(
                "pillion_denials_lost_total",
                "Denied plain connections that the kernel had no room to tell of; they are counted as denied.",
            ),
            failed_inserts: register(&registry, IntCounterVec::new(inserts, &["map"]).expect("a valid name")),
            watches: WatchMetrics::new(&registry),
            label_sets: LabelSets::of_this_process(),
            workers: Mutex::default(),
            registry,
        }
    }

    /// Of which each worker's metrics have a share.
    pub fn label_sets(&self) -> &LabelSets {
        &self.label_sets
    }

    /// Adds a worker to the scrape; a worker that is started again takes the place of the one before.
    pub fn register(&self, pod: &PodName, worker: Registry) {
        self.workers().insert(pod.clone(), worker);
    }

    /// Takes a worker, and its CPU time, out of the scrape.
    pub fn unregister(&self, pod: &PodName) {
        self.workers().remove(pod);
        // An error would be that there is none.
        let _ = self.worker_cpu.remove_label_values(&[&pod.namespace, &pod.name]);
    }

    /// The CPU time that a worker's thread has used since it started. A smaller value than before is another
    /// thread's: the counter starts anew, as counters may.
    pub fn set_worker_cpu(&self, pod: &PodName, seconds: f64) {
        let counter: Counter = self.worker_cpu.with_label_values(&[&pod.namespace, &pod.name]);
        let since = seconds - counter.get();
        if since < 0.0 {
            counter.reset();
            counter.inc_by(seconds.max(0.0));
        } else {
            counter.inc_by(since);
        }
    }

    /// Counts a repair; `what` is from a small set (`map`, `link`, `listener` …).
    pub fn audit_repair(&self, what: &str) {
        self.audit_repairs.with_label_values(&[what]).inc();
    }

    /// Records that the node's core was busy with a task; `task` is from a small set (`mesh`, `audit` …).
    pub fn core_turn(&self, task: &str, took: Duration) {
        self.core_turns.with_label_values(&[task]).observe(took.as_secs_f64());
    }

    pub fn set_captured_pods(&self, pods: usize) {
        self.captured_pods.set(pods.try_into().unwrap_or(i64::MAX));
    }

    /// How many things of each kind are not as they should be.
    pub fn set_degraded(&self, counts: impl IntoIterator<Item = (&'static str, usize)>) {
        for (reason, count) in counts {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.degraded.with_label_values(&[reason]).set(count);
            if reason == "pod_orphaned" {
                self.orphaned_pods.set(count);
            }
        }
    }

    pub fn set_manifests(&self, generation: u64, errors: usize) {
        self.mesh_generation.set(generation.try_into().unwrap_or(i64::MAX));
        self.manifest_errors.set(errors.try_into().unwrap_or(i64::MAX));
    }

    /// Counts a signing request; `result` is from a small set.
    pub fn ca_request(&self, result: &'static str) {
        self.ca_requests.with_label_values(&[result]).inc();
    }

    /// What certificates are verified against: roots by name, with their ends, and how many certificates are revoked; and
    /// how many things are wrong with the authority.
    pub fn set_trust<'a>(
        &self,
        roots: impl Iterator<Item = (&'a str, OffsetDateTime)>,
        revoked: usize,
        errors: usize,
    ) {
        self.ca_errors.set(errors.try_into().unwrap_or(i64::MAX));
        self.revoked.set(revoked.try_into().unwrap_or(i64::MAX));
        self.root_expiry.reset();
        for (root, not_after) in roots {
            self.root_expiry.with_label_values(&[root]).set(not_after.unix_timestamp());
        }
    }

    /// How it stands with the API server.
    pub fn watches(&self) -> &WatchMetrics {
        &self.watches
    }

    /// The policies that are refused now, each by kind, namespace and name.
    pub fn set_policies_refused(&self, refused: impl Iterator<Item = [String; 3]>) {
        self.policies_refused.reset();
        refused.for_each(|policy| self.policies_refused.with_label_values(&policy).set(1));
    }

    /// The counter that the access log adds to.
    pub fn access_log_dropped(&self) -> IntCounter {
        self.access_log_dropped.clone()
    }

    /// Shows what the agent's own log counts, which begins before there are metrics.
    pub fn show_log_lines_dropped(&self, dropped: &IntCounter) {
        register(&self.registry, dropped.clone());
    }

    /// The counter that whoever reads the kernel's events keeps.
    pub fn direct_events_lost(&self) -> IntCounter {
        self.direct_events_lost.clone()
    }

    /// The counter of Kubernetes Events that are not written.
    pub fn pod_events_dropped(&self) -> IntCounter {
        self.pod_events_dropped.clone()
    }

    /// The counter that whoever reads the kernel's denials keeps.
    pub fn denials_lost(&self) -> IntCounter {
        self.denials_lost.clone()
    }

    /// How many inserts have failed, by map.
    pub fn set_failed_inserts(&self, failed: &BTreeMap<&'static str, u64>) {
        for (map, count) in failed {
            follow(&self.failed_inserts.with_label_values(&[map]), *count);
        }
    }

    /// Everything in Prometheus' text format.
    pub fn encode(&self) -> String {
        let workers: Vec<Registry> = self.workers().values().cloned().collect();
        let gathered = std::iter::once(&self.registry).chain(&workers).flat_map(Registry::gather);
        let families: Vec<MetricFamily> = merge(gathered).into_values().collect();
        TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
            // Only a family without metrics or without a name cannot be encoded, and there are none.
            tracing::error!("metrics cannot be encoded: {error}");
            String::new()
        })
    }

    fn workers(&self) -> MutexGuard<'_, BTreeMap<PodName, Registry>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One family for each name: the text format allows a name once.
fn merge(gathered: impl Iterator<Item = MetricFamily>) -> BTreeMap<String, MetricFamily> {
    let mut families = BTreeMap::new();
    for mut family in gathered {
        match families.entry(family.name().to_owned()) {
            Entry::Vacant(entry) => drop(entry.insert(family)),
            Entry::Occupied(entry) => entry.into_mut().mut_metric().append(family.mut_metric()),
        }
    }
    families
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{HandshakeRole, WorkerMetrics};

    fn pod(name: &str) -> PodName {
        PodName { namespace: "shop".into(), name: name.into() }
    }

    #[test]
    fn a_scrape_holds_every_worker_and_each_family_once() {
        let node = NodeMetrics::new("0.1.0");
        for name in ["cart", "db"] {
            let worker = WorkerMetrics::new(&pod(name), node.label_sets());
            worker.handshake(HandshakeRole::Client, "ok");
            node.register(&pod(name), worker.registry());
            node.set_worker_cpu(&pod(name), 1.5);
        }
        node.audit_repair("listener");
        node.set_captured_pods(2);
        node.set_manifests(7, 1);
        node.ca_request("ok");
        node.set_failed_inserts(&BTreeMap::from([("FLOWS", 4)]));
        node.set_trust([("ab12", OffsetDateTime::UNIX_EPOCH + Duration::from_secs(5))].into_iter(), 3, 1);
        let text = node.encode();
        assert_eq!(text.matches("# TYPE pillion_handshakes_total counter").count(), 1, "{text}");
        for line in [
            r#"pillion_handshakes_total{result="ok",role="client",namespace="shop",pod="cart"} 1"#,
            r#"pillion_handshakes_total{result="ok",role="client",namespace="shop",pod="db"} 1"#,
            r#"pillion_worker_cpu_seconds_total{namespace="shop",pod="db"} 1.5"#,
            r#"pillion_audit_repairs_total{what="listener"} 1"#,
            r#"pillion_build_info{version="0.1.0"} 1"#,
            "pillion_captured_pods 2",
            "pillion_mesh_generation 7",
            "pillion_manifest_errors 1",
            r#"pillion_ca_requests_total{result="ok"} 1"#,
            r#"pillion_root_expiry_timestamp_seconds{root="ab12"} 5"#,
            "pillion_revoked_certificates 3",
            "pillion_ca_errors 1",
            "pillion_access_log_dropped_total 0",
            r#"pillion_kernel_inserts_failed_total{map="FLOWS"} 4"#,
            "pillion_direct_events_lost_total 0",
        ] {
            // The order of a registry's own labels is not given.
            let swapped = line.replace(r#"namespace="shop",pod="cart""#, r#"pod="cart",namespace="shop""#);
            let swapped = swapped.replace(r#"namespace="shop",pod="db""#, r#"pod="db",namespace="shop""#);
            assert!(text.lines().any(|l| l == line || l == swapped), "no {line} in\n{text}");
        }
        node.unregister(&pod("db"));
        assert!(!node.encode().contains(r#"pod="db""#));
    }

    #[test]
    fn a_workers_cpu_time_starts_anew_with_its_thread() {
        let node = NodeMetrics::new("0.1.0");
        for (seconds, line) in [(2.0, "} 2"), (2.5, "} 2.5"), (0.25, "} 0.25")] {
            node.set_worker_cpu(&pod("cart"), seconds);
            assert!(node.encode().lines().any(|l| l.starts_with("pillion_worker_cpu") && l.ends_with(line)));
        }
    }
}
