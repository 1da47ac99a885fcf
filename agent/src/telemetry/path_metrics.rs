//! What the kernel does at a pod's borders.

use super::register::register;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// A pod's metrics of its direct path and its guard.
pub struct PathMetrics {
    direct: IntGaugeVec,
    plaintext: IntCounterVec,
    dropped: IntCounterVec,
    unattested: IntCounter,
}

/// What the kernel has counted of a pod since it was captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCounts {
    /// Plain connections that nobody attests, and that passed.
    pub passed: u64,
    /// Plain connections that were refused.
    pub refused: u64,
    /// Plain connections that policies do not allow.
    pub denied: u64,
    /// Packets that left the pod under an address that is not its own.
    pub foreign_source: u64,
    /// Packets of a direct connection that came to the pod by another way.
    pub forged: u64,
    /// Connections that were to be direct, that nothing attests, and that were refused.
    pub unattested: u64,
}

impl PathMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let opts = Opts::new(
            "pillion_pod_direct",
            "1 where the pod's connections within the node may be direct, else 0 and the reason.",
        );
        let counters = |name, help, label| {
            let counters =
                IntCounterVec::new(Opts::new(name, help), &[label]).expect("a valid name and label");
            register(registry, counters)
        };
        Self {
            direct: register(registry, IntGaugeVec::new(opts, &["reason"]).expect("a valid name and label")),
            plaintext: counters(
                "pillion_inbound_plaintext_total",
                "Plain connections to the pod that nobody vouches for, by what became of them.",
                "result",
            ),
            dropped: counters(
                "pillion_dropped_packets_total",
                "Packets that the kernel dropped at the pod's veth, by the reason.",
                "reason",
            ),
            unattested: register(
                registry,
                IntCounter::new(
                    "pillion_unattested_connections_refused_total",
                    "Connections of the pod that were to be direct, and that the kernel refused because nothing attests them.",
                )
                .expect("a valid name"),
            ),
        }
    }

    /// Whether the pod's connections may be direct, or the reason why not.
    pub fn set_direct(&self, reason: Option<&str>) {
        self.direct.reset();
        self.direct.with_label_values(&[reason.unwrap_or_default()]).set(i64::from(reason.is_none()));
    }

    pub fn set_counts(&self, counts: &PathCounts) {
        for (counters, label, count) in [
            (&self.plaintext, "passed", counts.passed),
            (&self.plaintext, "refused", counts.refused),
            (&self.plaintext, "denied", counts.denied),
            (&self.dropped, "foreign_source", counts.foreign_source),
            (&self.dropped, "forged", counts.forged),
        ] {
            follow(&counters.with_label_values(&[label]), count);
        }
        follow(&self.unattested, counts.unattested);
    }
}

/// The kernel's count starts anew when the pod is captured anew; a counter never goes back but to zero.
pub(super) fn follow(counter: &IntCounter, count: u64) {
    if count < counter.get() {
        counter.reset();
    }
    counter.inc_by(count - counter.get());
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;

    fn text(registry: &Registry) -> String {
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    #[test]
    fn a_pod_is_direct_or_has_one_reason_why_not() {
        let registry = Registry::new();
        let metrics = PathMetrics::new(&registry);
        metrics.set_direct(Some("pod_disabled"));
        metrics.set_direct(Some("network_policy"));
        assert!(text(&registry).contains(r#"pillion_pod_direct{reason="network_policy"} 0"#));
        assert!(!text(&registry).contains("pod_disabled"));
        metrics.set_direct(None);
        assert!(text(&registry).contains(r#"pillion_pod_direct{reason=""} 1"#));
    }

    #[test]
    fn counts_follow_the_kernels() {
        let registry = Registry::new();
        let metrics = PathMetrics::new(&registry);
        metrics.set_counts(&PathCounts { passed: 3, refused: 1, denied: 5, ..PathCounts::default() });
        metrics.set_counts(&PathCounts {
            passed: 2,
            refused: 4,
            denied: 6,
            unattested: 2,
            ..PathCounts::default()
        });
        let text = text(&registry);
        assert!(text.contains(r#"pillion_inbound_plaintext_total{result="passed"} 2"#), "{text}");
        assert!(text.contains(r#"pillion_inbound_plaintext_total{result="refused"} 4"#), "{text}");
        assert!(text.contains(r#"pillion_inbound_plaintext_total{result="denied"} 6"#), "{text}");
        assert!(text.contains("pillion_unattested_connections_refused_total 2"), "{text}");
    }
}
