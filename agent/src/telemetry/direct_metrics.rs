//! What is counted of a pod's direct connections, besides what is counted of all.

use super::register::register;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Within one kernel a round trip takes tens of microseconds; what takes longer waits for a CPU.
const SRTT_BUCKETS: [f64; 10] = [10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 5e-3, 20e-3, 100e-3];

/// A pod's metrics of its ends of direct connections.
pub struct DirectMetrics {
    open: IntGauge,
    retransmits: IntCounter,
    srtt: Histogram,
    cut: IntCounterVec,
}

/// An end of a direct connection that is counted as open until this is dropped.
pub struct DirectConnection(IntGauge);

impl DirectMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let open = IntGauge::new("pillion_direct_connections", "Ends of direct connections open now.");
        let retransmits = IntCounter::new(
            "pillion_direct_retransmits_total",
            "Segments that the pod's ends of direct connections have sent again.",
        );
        let srtt = HistogramOpts::new(
            "pillion_direct_srtt_seconds",
            "Smoothed round trip times of direct connections when they closed.",
        );
        let srtt = Histogram::with_opts(srtt.buckets(SRTT_BUCKETS.to_vec()));
        let cut = Opts::new(
            "pillion_connections_cut_total",
            "Open connections that were cut because a changed mesh allows them no longer.",
        );
        Self {
            open: register(registry, open.expect("a valid name")),
            retransmits: register(registry, retransmits.expect("a valid name")),
            srtt: register(registry, srtt.expect("a valid name and rising buckets")),
            cut: register(registry, IntCounterVec::new(cut, &["reason"]).expect("a valid name and label")),
        }
    }

    /// Counts an end as open, besides its series, until the answer is dropped.
    pub fn opened(&self) -> DirectConnection {
        self.open.inc();
        DirectConnection(self.open.clone())
    }

    /// What the kernel says of an end when it closes; 0 µs is a time that it has not measured.
    pub fn closed(&self, srtt_us: u32, retransmits: u32) {
        if srtt_us > 0 {
            self.srtt.observe(f64::from(srtt_us) / 1e6);
        }
        self.retransmits.inc_by(u64::from(retransmits));
    }

    /// Counts an open connection that was cut, direct or plain; `reason` is from a small set.
    pub fn cut(&self, reason: &'static str) {
        self.cut.with_label_values(&[reason]).inc();
    }

    /// The ends that are open.
    pub fn open(&self) -> i64 {
        self.open.get()
    }
}

impl Drop for DirectConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
