//! How it stands with the API server.

use super::register::register;
use prometheus::{IntGaugeVec, Opts, Registry};
use time::OffsetDateTime;

/// The node's metrics of its watches on the API server; there are none without one.
pub struct WatchMetrics {
    connected: IntGaugeVec,
    since: IntGaugeVec,
}

/// A watch as it is now.
pub struct Watch {
    pub resource: &'static str,
    pub connected: bool,
    /// Since when it is so.
    pub since: OffsetDateTime,
}

impl WatchMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let gauges = |name, help| {
            let gauges =
                IntGaugeVec::new(Opts::new(name, help), &["resource"]).expect("a valid name and label");
            register(registry, gauges)
        };
        Self {
            connected: gauges(
                "pillion_kube_watch_connected",
                "1 where the API server tells of changes of the resource; 0 where it is away, or does not have it.",
            ),
            since: gauges(
                "pillion_kube_watch_since_timestamp_seconds",
                "Since when the watch is as it is, in seconds since 1970.",
            ),
        }
    }

    pub fn set(&self, watches: impl Iterator<Item = Watch>) {
        for Watch { resource, connected, since } in watches {
            self.connected.with_label_values(&[resource]).set(i64::from(connected));
            self.since.with_label_values(&[resource]).set(since.unix_timestamp());
        }
    }
}
