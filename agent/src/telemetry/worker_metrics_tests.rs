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
    assert_eq!(value(&metrics, "pillion_budget_refused_total", &["label_sets"]), Some(2.0 * 1_000.0 - 64.0));

    // Those that expire make room.
    let start = Instant::now();
    metrics.expire_idle(start, IDLE);
    assert_eq!(value(&metrics, "pillion_budget_used_ratio", &["label_sets"]), Some(1.0));
    metrics.expire_idle(start + IDLE, IDLE);
    drop(metrics.series(labels("later")).open());
    assert_eq!(value(&metrics, "istio_tcp_connections_opened_total", &["later"]), Some(1.0));
}
