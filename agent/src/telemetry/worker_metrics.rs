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
mod tests {
    use super::*;
    use crate::telemetry::connection::tests::workload;
    use crate::telemetry::{ConnectionSecurity, Peer, Reporter};
    use prometheus::TextEncoder;

    const IDLE: Duration = Duration::from_secs(900);

    fn labels(source: &str) -> ConnectionLabels {
        let source = workload(source);
        let source = Peer { workload: Some(&source), identity: Some(&source.identity) };
        ConnectionLabels::new(Reporter::Source, source, Peer::default(), None, ConnectionSecurity::MutualTls)
    }

    fn metrics() -> WorkerMetrics {
        with(&LabelSets::new(1_000))
    }

    fn with(label_sets: &LabelSets) -> WorkerMetrics {
        WorkerMetrics::new(&PodName { namespace: "shop".into(), name: "cart-0".into() }, label_sets)
    }

    fn text(metrics: &WorkerMetrics) -> String {
        TextEncoder::new().encode_to_string(&metrics.registry().gather()).unwrap()
    }

    /// The value of the first series with this name that has all these labels.
    fn value(metrics: &WorkerMetrics, name: &str, labels: &[&str]) -> Option<f64> {
        let text = text(metrics);
        let line = text
            .lines()
            .find(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    // proves: TEL-1
    #[test]
    fn a_connection_is_counted_from_opening_to_drop() {
        let metrics = metrics();
        let connection = metrics.series(labels("cart")).open();
        connection.sent(100);
        connection.sent(20);
        connection.received(7);
        let cart =
            [r#"source_workload="cart""#, r#"pod="cart-0""#, r#"namespace="shop""#, r#"response_flags="-""#];
        assert_eq!(value(&metrics, "istio_tcp_connections_opened_total", &cart), Some(1.0));
        assert_eq!(value(&metrics, "istio_tcp_connections_closed_total", &cart), Some(0.0));
        assert_eq!(value(&metrics, "istio_tcp_sent_bytes_total", &cart), Some(120.0));
        assert_eq!(value(&metrics, "istio_tcp_received_bytes_total", &cart), Some(7.0));
        assert_eq!(value(&metrics, "pillion_open_connections", &[]), Some(1.0));
        drop(connection);
        assert_eq!(value(&metrics, "istio_tcp_connections_closed_total", &cart), Some(1.0));
        assert_eq!(metrics.open_connections(), 0);
    }

    #[test]
    fn failures_and_handshakes_are_counted_by_reason() {
        let metrics = metrics();
        metrics.failed(&labels("cart"), "UF");
        metrics.failed(&labels("cart"), "UF");
        metrics.failed(&labels("cart"), "UH");
        metrics.handshake(HandshakeRole::Server, "ok");
        assert_eq!(value(&metrics, "istio_tcp_connections_failed_total", &[r#"flags="UF""#]), Some(2.0));
        assert_eq!(value(&metrics, "istio_tcp_connections_failed_total", &[r#"flags="UH""#]), Some(1.0));
        assert_eq!(
            value(&metrics, "pillion_handshakes_total", &[r#"role="server""#, r#"result="ok""#]),
            Some(1.0)
        );
    }

    #[test]
    fn a_certificates_expiry_is_there_once_there_is_one() {
        let metrics = metrics();
        assert!(!text(&metrics).contains("pillion_certificate_expiry"));
        metrics.set_certificate_expiry(OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap());
        assert_eq!(value(&metrics, "pillion_certificate_expiry_timestamp_seconds", &[]), Some(1.7e9));
    }

    // proves: TEL-1
    #[test]
    fn idle_series_expire_and_open_ones_do_not() {
        let metrics = metrics();
        let start = Instant::now();
        let open = metrics.series(labels("open")).open();
        drop(metrics.series(labels("idle")).open());
        metrics.failed(&labels("idle"), "UF");
        metrics.expire_idle(start, IDLE);
        assert!(text(&metrics).contains("idle"));
        metrics.expire_idle(start + IDLE, IDLE);
        let after = text(&metrics);
        assert!(after.contains("open") && !after.contains(r#"source_workload="idle""#), "{after}");

        // The time of an open connection counts from its end.
        drop(open);
        metrics.expire_idle(start + IDLE + IDLE / 2, IDLE);
        assert!(text(&metrics).contains(r#"source_workload="open""#));
        metrics.expire_idle(start + IDLE * 2, IDLE);
        assert!(!text(&metrics).contains(r#"source_workload="open""#));

        // What comes back starts anew.
        drop(metrics.series(labels("idle")).open());
        assert_eq!(value(&metrics, "istio_tcp_connections_opened_total", &["idle"]), Some(1.0));
    }

    // proves: ISO-3
    #[test]
    fn connections_of_more_parties_than_a_pod_may_name_are_counted_together() {
        let metrics = with(&LabelSets::new(0));
        for number in 0..1_000 {
            drop(metrics.series(labels(&format!("churn-{number}"))).open());
            metrics.failed(&labels(&format!("churn-{number}")), "UF");
        }
        let text = text(&metrics);
        let series = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!(
            series("istio_tcp_connections_opened_total") + series("istio_tcp_connections_failed_total"),
            64 + 2
        );
        // None is lost.
        let total: f64 = text
            .lines()
            .filter(|line| line.starts_with("istio_tcp_connections_opened_total"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        assert_eq!(total as u64, 1_000);
        assert_eq!(
            value(&metrics, "istio_tcp_connections_failed_total", &[r#"source_workload="other""#]),
            Some(968.0)
        );
        assert_eq!(
            value(&metrics, "pillion_budget_refused_total", &["label_sets"]),
            Some(2.0 * 1_000.0 - 64.0)
        );

        // Those that expire make room.
        let start = Instant::now();
        metrics.expire_idle(start, IDLE);
        assert_eq!(value(&metrics, "pillion_budget_used_ratio", &["label_sets"]), Some(1.0));
        metrics.expire_idle(start + IDLE, IDLE);
        drop(metrics.series(labels("later")).open());
        assert_eq!(value(&metrics, "istio_tcp_connections_opened_total", &["later"]), Some(1.0));
    }
}
