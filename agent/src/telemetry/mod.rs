//! What the mesh tells of itself: metrics, the access log, the agent's own log.
//!
//! Counting must not slow what is counted. Each pod has a registry of its own, so workers share no lock; a
//! connection finds its counters once, when it opens; a log line that cannot be written at once is dropped and
//! counted, never waited for. Nothing in here knows where connections come from or why they go where they go.

#![forbid(unsafe_code)]

mod access_log;
mod authorization;
mod connection;
mod direct_metrics;
mod label_sets;
mod lines;
mod logging;
mod node_metrics;
mod parties;
mod path_metrics;
pub(crate) mod register;
mod watch_metrics;
mod worker_metrics;

pub use access_log::{AccessLog, AccessLogEntry, Direction};
pub use authorization::{AuthorizationLog, AuthorizationMetrics};
pub use connection::{ConnectionLabels, ConnectionSecurity, Peer, Reporter};
pub use direct_metrics::{DirectConnection, DirectMetrics};
pub use label_sets::LabelSets;
pub use logging::{Logging, LoggingError, flush_log};
pub use node_metrics::NodeMetrics;
pub use parties::{Outcome, Parties};
pub use path_metrics::{PathCounts, PathMetrics};
pub use watch_metrics::{Watch, WatchMetrics};
pub use worker_metrics::{ConnectionSeries, HandshakeRole, OpenConnection, WorkerMetrics};
