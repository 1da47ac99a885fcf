//! What the server counts.

use crate::telemetry::register::register;
use prometheus::{
    Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::time::Duration;

/// Most of it is the API server's answer about the token.
const BUCKETS: [f64; 9] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

pub struct Metrics {
    registry: Registry,
    answers: IntCounterVec,
    seconds: Histogram,
    pub pods: IntGauge,
    pub errors: IntGauge,
    pub revoked: IntGauge,
    pub root_expiry: IntGaugeVec,
}

impl Metrics {
    pub fn new() -> Self {
        let registry = Registry::new();
        let gauge = |name, help| register(&registry, IntGauge::new(name, help).expect("a valid name"));
        let answers = Opts::new("pillion_ca_answers_total", "Requests for certificates, by gRPC status.");
        let seconds = HistogramOpts::new("pillion_ca_answer_seconds", "How long answers take.");
        let expiry = Opts::new(
            "pillion_ca_root_expiry_timestamp_seconds",
            "When a root that is trusted expires, in seconds since 1970; by the beginning of its SHA-256.",
        );
        Self {
            answers: register(&registry, IntCounterVec::new(answers, &["code"]).expect("a valid name")),
            seconds: register(
                &registry,
                Histogram::with_opts(seconds.buckets(BUCKETS.to_vec())).expect("a valid name"),
            ),
            pods: gauge("pillion_ca_pods", "Pods that are known, with a node and not finished."),
            errors: gauge("pillion_ca_errors", "What is wrong with the authority now."),
            revoked: gauge("pillion_ca_revoked_certificates", "Certificates that the CRLs in use revoke."),
            root_expiry: register(&registry, IntGaugeVec::new(expiry, &["root"]).expect("a valid name")),
            registry,
        }
    }

    /// `code` is gRPC's name of it.
    pub fn answered(&self, code: &'static str, after: Duration) {
        self.answers.with_label_values(&[code]).inc();
        self.seconds.observe(after.as_secs_f64());
    }

    pub fn encode(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}
