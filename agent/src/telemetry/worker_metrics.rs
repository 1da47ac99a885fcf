//! What is counted of one pod.

use super::label_sets::{LabelSets, Share};
use super::register::register;
use super::{AuthorizationMetrics, ConnectionLabels, DirectMetrics, PathMetrics};
use crate::mesh::PodName;
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// The name of the budget of label sets.
const LABEL_SETS: &str = "label_sets";

/// The metrics of one pod, in a registry of their own that carries its name: its worker counts what it carries, and
/// whoever reads the kernel's events counts the direct connections. They outlive a worker that is started again.
pub struct WorkerMetrics {
    registry: Registry,
    opened: IntCounterVec,
    closed: IntCounterVec,
    sent: IntCounterVec,
    received: IntCounterVec,
    failed: IntCounterVec,
    handshakes: IntCounterVec,
    budget_refused: IntCounterVec,
    budget_used: GaugeVec,
    open_connections: IntGauge,
    certificate_expiry: IntGaugeVec,
    renewal_failing_since: IntGaugeVec,
    authorization: AuthorizationMetrics,
    direct: DirectMetrics,
    path: PathMetrics,
    /// The worker's own thread and the one of direct connections come here, each for less than a microsecond.
    used: Mutex<Used>,
}

/// The label sets in use, each with the counters it leads to.
struct Used {
    /// Label sets without names are none of it: there are few.
    share: Share,
    connections: HashMap<ConnectionLabels, Entry<Arc<Series>>>,
    failures: HashMap<(ConnectionLabels, &'static str), Entry<IntCounter>>,
}

struct Entry<T> {
    counters: T,
    /// Whether it is one of the pod's share.
    is_of_share: bool,
    /// Used since it was last looked at.
    fresh: bool,
    /// When it was last seen to be used.
    seen: Option<Instant>,
}

/// The counters of one label set. All carry the response flags "-", the closed ones too, so that
/// `opened - closed` is what is open; why a connection failed is counted by itself.
struct Series {
    labels: ConnectionLabels,
    opened: IntCounter,
    closed: IntCounter,
    sent: IntCounter,
    received: IntCounter,
    open_connections: IntGauge,
}

/// The counters of connections between the same parties, found once. While it lives they do not expire.
pub struct ConnectionSeries(Arc<Series>);

/// A connection that is counted as open until this is dropped.
pub struct OpenConnection(Arc<Series>);

/// Which part a worker plays in a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeRole {
    Client,
    Server,
}

impl WorkerMetrics {
    /// `label_sets` are the node's.
    pub fn new(pod: &PodName, label_sets: &LabelSets) -> Self {
        let labels = [("namespace", &pod.namespace), ("pod", &pod.name)];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.clone())).into();
        let registry = Registry::new_custom(None, Some(labels)).expect("no prefix that could be empty");
        let connection = [&ConnectionLabels::NAMES[..], &["response_flags"]].concat();
        let counters = |name, help, labels: &[&str]| {
            let counters =
                IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name and labels");
            register(&registry, counters)
        };
        // Vectors without labels: there is no value before there is something to tell.
        let time_of_something = |name, help| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), &[]).expect("a valid name"))
        };
        Self {
            opened: counters("istio_tcp_connections_opened_total", "Connections opened.", &connection),
            closed: counters("istio_tcp_connections_closed_total", "Connections closed.", &connection),
            sent: counters(
                "istio_tcp_sent_bytes_total",
                "Bytes that the server sent to the client.",
                &connection,
            ),
            received: counters(
                "istio_tcp_received_bytes_total",
                "Bytes that the server received from the client.",
                &connection,
            ),
            failed: counters(
                "istio_tcp_connections_failed_total",
                "Connections that failed, by Envoy's response flags.",
                &connection,
            ),
            handshakes: counters(
                "pillion_handshakes_total",
                "TLS handshakes by role and result.",
                &["role", "result"],
            ),
            budget_refused: counters(
                "pillion_budget_refused_total",
                "Connections that were refused because the pod has its share, by what it has its share of.",
                &["budget"],
            ),
            budget_used: register(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "pillion_budget_used_ratio",
                        "The part of its share that the pod has in use, by what it is a share of.",
                    ),
                    &["budget"],
                )
                .expect("a valid name and label"),
            ),
            open_connections: register(
                &registry,
                IntGauge::new("pillion_open_connections", "Connections open now.").expect("a valid name"),
            ),
            certificate_expiry: time_of_something(
                "pillion_certificate_expiry_timestamp_seconds",
                "When the worker's certificate expires, in seconds since 1970.",
            ),
            renewal_failing_since: time_of_something(
                "pillion_certificate_renewal_failing_since_timestamp_seconds",
                "Since when no certificate could be had, in seconds since 1970; absent while that works.",
            ),
            authorization: AuthorizationMetrics::new(&registry),
            direct: DirectMetrics::new(&registry),
            path: PathMetrics::new(&registry),
            used: Mutex::new(Used {
                share: label_sets.share(),
                connections: HashMap::new(),
                failures: HashMap::new(),
            }),
            registry,
        }
    }

    /// What the node gathers at a scrape; clones share the metrics.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// The counters that connections with these labels lead to. Where the pod has as many label sets as it may, connections of
    /// other parties are counted together, without names.
    pub fn series(&self, labels: ConnectionLabels) -> ConnectionSeries {
        let mut used = self.used();
        if let Some(entry) = used.connections.get_mut(&labels) {
            return ConnectionSeries(entry.touch().clone());
        }
        let is_of_share = used.share.take();
        let labels = if is_of_share { labels } else { self.nameless(&labels) };
        let entry = used
            .connections
            .entry(labels)
            .or_insert_with_key(|labels| Entry::new(Arc::new(self.new_series(labels)), is_of_share));
        ConnectionSeries(entry.touch().clone())
    }

    /// Counts a connection that failed, before or after it was open; `flags` are Envoy's response flags.
    pub fn failed(&self, labels: &ConnectionLabels, flags: &'static str) {
        let mut used = self.used();
        let key = (labels.clone(), flags);
        if let Some(entry) = used.failures.get_mut(&key) {
            return entry.touch().inc();
        }
        let is_of_share = used.share.take();
        let key = if is_of_share { key } else { (self.nameless(labels), flags) };
        let entry = used.failures.entry(key).or_insert_with_key(|(labels, flags)| {
            Entry::new(self.failed.with_label_values(&labels.with_flags(flags)), is_of_share)
        });
        entry.touch().inc();
    }

    fn nameless(&self, labels: &ConnectionLabels) -> ConnectionLabels {
        self.budget_refused(LABEL_SETS);
        labels.without_names()
    }

    /// Counts a handshake; `result` is `ok` or a reason from a small set.
    pub fn handshake(&self, role: HandshakeRole, result: &'static str) {
        self.handshakes.with_label_values(&[role.as_str(), result]).inc();
    }

    /// Counts a connection that was refused because the pod has its share of `budget`.
    pub fn budget_refused(&self, budget: &'static str) {
        self.budget_refused.with_label_values(&[budget]).inc();
    }

    /// How much of its share of `budget` the pod has in use: 1 is all.
    pub fn budget_used(&self, budget: &'static str) -> Gauge {
        self.budget_used.with_label_values(&[budget])
    }

    /// Notes how many bytes the pod's streams hold, and how many they may.
    pub fn set_memory(&self, held: usize, budget: usize) {
        self.budget_used("memory").set(held as f64 / budget.max(1) as f64);
    }

    /// What policies decide.
    pub fn authorization(&self) -> &AuthorizationMetrics {
        &self.authorization
    }

    /// What the kernel tells of the connections that no worker carries.
    pub fn direct(&self) -> &DirectMetrics {
        &self.direct
    }

    /// What the kernel does at the pod's borders.
    pub fn path(&self) -> &PathMetrics {
        &self.path
    }

    pub fn open_connections(&self) -> i64 {
        self.open_connections.get()
    }

    pub fn set_certificate_expiry(&self, not_after: OffsetDateTime) {
        self.certificate_expiry.with_label_values::<&str>(&[]).set(not_after.unix_timestamp());
    }

    /// `None` while certificates can be had.
    pub fn set_renewal_failing_since(&self, since: Option<OffsetDateTime>) {
        match since {
            Some(since) => {
                self.renewal_failing_since.with_label_values::<&str>(&[]).set(since.unix_timestamp());
            }
            None => self.renewal_failing_since.reset(),
        }
    }

    /// Forgets the label sets that no connection has had for `max_idle`, so that peers which are gone do not
    /// stay for ever. Called now and then; a use is noticed at the next call after it.
    pub fn expire_idle(&self, now: Instant, max_idle: Duration) {
        let mut used = self.used();
        let Used { share, connections, failures } = &mut *used;
        connections.retain(|labels, entry| {
            // The entry's own reference is one; any other is an open connection's, or of somebody who opens more.
            let open = Arc::strong_count(&entry.counters) > 1;
            let keep = entry.keep(open, now, max_idle, share);
            if !keep {
                for counters in [&self.opened, &self.closed, &self.sent, &self.received] {
                    // An error would be that there is none, which is what is wanted.
                    let _ = counters.remove_label_values(&labels.with_flags("-"));
                }
            }
            keep
        });
        failures.retain(|(labels, flags), entry| {
            let keep = entry.keep(false, now, max_idle, share);
            if !keep {
                let _ = self.failed.remove_label_values(&labels.with_flags(flags));
            }
            keep
        });
        self.budget_used(LABEL_SETS).set(share.used());
    }

    fn new_series(&self, labels: &ConnectionLabels) -> Series {
        let values = labels.with_flags("-");
        Series {
            labels: labels.clone(),
            opened: self.opened.with_label_values(&values),
            closed: self.closed.with_label_values(&values),
            sent: self.sent.with_label_values(&values),
            received: self.received.with_label_values(&values),
            open_connections: self.open_connections.clone(),
        }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        // Counters are whole after a panic too.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionSeries {
    /// Counts a connection as opened, and as closed when the answer is dropped.
    pub fn open(&self) -> OpenConnection {
        self.0.opened.inc();
        self.0.open_connections.inc();
        OpenConnection(self.0.clone())
    }

    pub fn labels(&self) -> &ConnectionLabels {
        &self.0.labels
    }
}

impl OpenConnection {
    pub fn labels(&self) -> &ConnectionLabels {
        &self.0.labels
    }

    /// Counts bytes that the server sent to the client.
    pub fn sent(&self, bytes: u64) {
        self.0.sent.inc_by(bytes);
    }

    /// Counts bytes that the server received from the client.
    pub fn received(&self, bytes: u64) {
        self.0.received.inc_by(bytes);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.closed.inc();
        self.0.open_connections.dec();
    }
}

impl<T> Entry<T> {
    fn new(counters: T, is_of_share: bool) -> Self {
        Self { counters, is_of_share, fresh: true, seen: None }
    }

    fn touch(&mut self) -> &T {
        self.fresh = true;
        &self.counters
    }

    /// Whether it stays; where not, it is given back.
    fn keep(&mut self, in_use: bool, now: Instant, max_idle: Duration, share: &mut Share) -> bool {
        let used_since = std::mem::take(&mut self.fresh);
        if in_use || used_since {
            self.seen = Some(now);
        }
        let keep = self.seen.is_none_or(|seen| now.saturating_duration_since(seen) < max_idle);
        if !keep && self.is_of_share {
            share.give_back();
        }
        keep
    }
}

impl HandshakeRole {
    fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

#[cfg(test)]
#[path = "worker_metrics_tests.rs"]
mod tests;
