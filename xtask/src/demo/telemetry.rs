//! TEL-1 and TEL-3: what was counted.

use anyhow::{Context, Result, ensure};
use pillion_tests::metrics::Metrics;
use pillion_tests::{Agent, Pod};

use super::check::{Check, Saw};
use super::clients::fetch;
use super::stage::Stage;

pub const BYTES: Check =
    Check { id: "TEL-1", what: "the metrics of both ends agree with the bytes that were sent", look: bytes };

pub const CPU: Check =
    Check { id: "TEL-3", what: "each pod's share of the agent's CPU time is known", look: cpu };

/// Connections and bytes between alice and web, as one end reports them.
#[derive(Clone, Copy)]
struct Counted {
    closed: f64,
    received: f64,
    sent: f64,
}

fn bytes(stage: &Stage) -> Saw {
    let (alice, web) = (&stage.alice, &stage.web);
    stage.join(&[alice, web])?;
    let ends = [(&stage.north, "source", alice), (&stage.south, "destination", web)];
    // Connections of earlier checks may be closing still.
    let before = ends.map(|(agent, reporter, pod)| settled(agent, reporter, pod));
    let fetched = fetch(alice, web.ip4().into(), "/1m")?;
    let mut lines =
        vec![format!("curl in alice           sent {:>9}   received {:>9}", fetched.sent, fetched.received)];
    for ((agent, reporter, pod), before) in ends.into_iter().zip(before) {
        let before = before?;
        let metrics = agent
            .wait_metrics("the connection's end", |m| counted(m, reporter, pod).closed > before.closed)?;
        let after = counted(&metrics, reporter, pod);
        let (to_server, to_client) = (after.received - before.received, after.sent - before.sent);
        lines.push(format!(
            "{:5} {:17} received {to_server:>9}       sent {to_client:>9}",
            pod.name(),
            format!("({reporter})")
        ));
        let agrees = to_server == fetched.sent as f64 && to_client == fetched.received as f64;
        ensure!(agrees, "they do not agree: {}", lines.join("; "));
    }
    Ok(lines)
}

/// Waits until every connection is closed.
fn settled(agent: &Agent, reporter: &str, pod: &Pod) -> Result<Counted> {
    let metrics = agent.wait_metrics("that all is closed", |m| {
        m.sum("pillion_open_connections", &[("pod", pod.name())]) == 0.0
    })?;
    Ok(counted(&metrics, reporter, pod))
}

fn counted(metrics: &Metrics, reporter: &str, pod: &Pod) -> Counted {
    let labels = [
        ("reporter", reporter),
        ("pod", pod.name()),
        ("source_workload", "alice"),
        ("destination_workload", "web"),
        ("connection_security_policy", "mutual_tls"),
    ];
    let sum = |name| metrics.sum(name, &labels);
    Counted {
        closed: sum("istio_tcp_connections_closed_total"),
        received: sum("istio_tcp_received_bytes_total"),
        sent: sum("istio_tcp_sent_bytes_total"),
    }
}

fn cpu(stage: &Stage) -> Saw {
    stage.join(&stage.pods())?;
    let mut lines = vec![format!("{:6} {:>12} {:>12}", "pod", "CPU seconds", "connections")];
    for pod in stage.pods() {
        let metrics = stage.agent_of(pod).metrics()?;
        let labels = [("pod", pod.name())];
        let mut seconds = metrics.select("pillion_worker_cpu_seconds_total", &labels);
        let seconds = seconds.next().with_context(|| format!("no CPU time of {}", pod.name()))?.value;
        ensure!(seconds > 0.0, "{}'s worker has used no CPU time", pod.name());
        let connections = metrics.sum("istio_tcp_connections_opened_total", &labels) as u64;
        lines.push(format!("{:6} {seconds:>12.3} {connections:>12}", pod.name()));
    }
    Ok(lines)
}
