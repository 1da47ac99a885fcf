//! What is told of a connection: metrics while it lives, a line in the access log when it is over.

use super::context::Context;
use super::relay::{Ending, Traffic};
use crate::mesh::{Service, SpiffeId, Workload};
use crate::telemetry::{
    AccessLogEntry, ConnectionLabels, ConnectionSecurity, Direction, OpenConnection, Peer, Reporter,
};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use time::OffsetDateTime;

/// Who talks to whom, as far as it is known, seen from this worker's pod.
pub(super) struct Parties {
    pub began: Began,
    pub direction: Direction,
    pub source: Option<Arc<Workload>>,
    pub source_principal: Option<SpiffeId>,
    pub source_address: SocketAddr,
    pub destination: Option<Arc<Workload>>,
    pub destination_principal: Option<SpiffeId>,
    /// What the app asked for.
    pub destination_address: SocketAddr,
    /// Where the connection went.
    pub upstream_address: Option<SocketAddr>,
    pub service: Option<Arc<Service>>,
    pub security: ConnectionSecurity,
}

/// When a connection came to the worker: by the wall clock for people, by the steady one for durations.
pub(super) struct Began {
    wall: OffsetDateTime,
    steady: Instant,
}

/// An open connection.
pub(super) struct Record {
    context: Rc<Context>,
    parties: Parties,
    series: OpenConnection,
    sent: Cell<u64>,
    received: Cell<u64>,
}

impl Record {
    pub fn open(context: &Rc<Context>, parties: Parties) -> Self {
        let series = context.metrics.connection(parties.labels());
        Self { context: context.clone(), parties, series, sent: Cell::new(0), received: Cell::new(0) }
    }

    /// A connection that never came up.
    pub fn failed(context: &Context, parties: Parties, flags: &'static str, reason: &str) {
        tracing::debug!(pod = %context.name, from = %parties.source_address, to = %parties.destination_address,
            flags, "connection failed: {reason}");
        context.metrics.failed(&parties.labels(), flags);
        parties.log(context, 0, 0, flags, Some(reason));
    }

    pub fn close(self, ending: &Ending) {
        let (flags, error) = self.verdict(ending);
        if let Some(flags) = flags {
            self.context.metrics.failed(self.series.labels(), flags);
        }
        let (sent, received) = (self.sent.get(), self.received.get());
        self.parties.log(&self.context, sent, received, flags.unwrap_or("-"), error.as_deref());
    }

    /// Envoy's flags for a connection that did not end in order: which side ended it, client or server.
    fn verdict(&self, ending: &Ending) -> (Option<&'static str>, Option<String>) {
        let (app, far) = match self.parties.direction {
            Direction::Outbound => ("DC", "UC"),
            Direction::Inbound => ("UC", "DC"),
        };
        match ending {
            Ending::Finished => (None, None),
            Ending::App(e) => (Some(app), Some(e.to_string())),
            Ending::Far(e) => (Some(far), Some(e.clone())),
        }
    }

    fn count_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
        self.series.sent(bytes as u64);
    }

    fn count_received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
        self.series.received(bytes as u64);
    }
}

/// Istio counts from the server's side: received is what the client sent to it.
impl Traffic for Record {
    fn sent_by_app(&self, bytes: usize) {
        match self.parties.direction {
            Direction::Outbound => self.count_received(bytes),
            Direction::Inbound => self.count_sent(bytes),
        }
    }

    fn sent_to_app(&self, bytes: usize) {
        match self.parties.direction {
            Direction::Outbound => self.count_sent(bytes),
            Direction::Inbound => self.count_received(bytes),
        }
    }
}

impl Parties {
    fn labels(&self) -> ConnectionLabels {
        // A principal is told only where TLS has proven it.
        let proven = |identity| match self.security {
            ConnectionSecurity::MutualTls => identity,
            ConnectionSecurity::None => None,
        };
        let source =
            Peer { workload: self.source.as_deref(), identity: proven(self.source_principal.as_ref()) };
        let destination = Peer {
            workload: self.destination.as_deref(),
            identity: proven(self.destination_principal.as_ref()),
        };
        ConnectionLabels::new(self.reporter(), source, destination, self.service.as_deref(), self.security)
    }

    fn reporter(&self) -> Reporter {
        match self.direction {
            Direction::Outbound => Reporter::Source,
            Direction::Inbound => Reporter::Destination,
        }
    }

    fn log(&self, context: &Context, sent: u64, received: u64, flags: &str, error: Option<&str>) {
        let Some(log) = &context.access_log else { return };
        let service = self.service.as_ref().map(|service| service.host());
        log.log(&AccessLogEntry {
            start: self.began.wall,
            duration_ms: self.began.steady.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
            reporter: self.reporter(),
            pod: &context.name,
            direction: self.direction,
            source_address: self.source_address,
            source_principal: self.source_principal.as_ref(),
            source_workload: self.source.as_ref().map(|w| w.workload_name.as_str()),
            destination_address: self.destination_address,
            upstream_address: self.upstream_address,
            destination_principal: self.destination_principal.as_ref(),
            destination_workload: self.destination.as_ref().map(|w| w.workload_name.as_str()),
            destination_service: service.as_deref(),
            connection_security_policy: self.security,
            bytes_sent: sent,
            bytes_received: received,
            response_flags: flags,
            error,
        });
    }
}

impl Began {
    pub fn now() -> Self {
        Self { wall: OffsetDateTime::now_utc(), steady: Instant::now() }
    }
}
