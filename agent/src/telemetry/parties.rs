//! Who talks to whom, and what is told of it: the same for a connection that a worker carries and for a direct one.

use super::{
    AccessLog, AccessLogEntry, AuthorizationLog, ConnectionLabels, ConnectionSecurity, Direction, Peer,
    Reporter,
};
use crate::mesh::{PodName, Service, SpiffeId, Workload};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// Both ends of a connection, as far as they are known, seen from the pod that reports it.
#[derive(Clone, Debug)]
pub struct Parties {
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
    /// What the destination's policies said; `None` where none concerns it, or the reporter is not told.
    pub authorization: Option<Arc<AuthorizationLog>>,
}

/// How a connection went. Bytes are meant as in the metrics: sent is from the server to the client.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The pod that reports.
    pub pod: &'a PodName,
    pub start: OffsetDateTime,
    pub duration: Duration,
    pub sent: u64,
    pub received: u64,
    /// Envoy's; `-` where nothing went wrong.
    pub flags: &'a str,
    pub error: Option<&'a str>,
    /// Of direct connections only, as in [`AccessLogEntry`].
    pub srtt_us: Option<u32>,
    pub retransmits: Option<u32>,
}

impl Parties {
    pub fn labels(&self) -> ConnectionLabels {
        // A principal is told only where it is proven.
        let proven = |identity| match self.security {
            ConnectionSecurity::MutualTls | ConnectionSecurity::KernelAttested => identity,
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

    /// Writes the connection's line in the access log.
    pub fn log(&self, log: &AccessLog, outcome: &Outcome<'_>) {
        let service = self.service.as_ref().map(|service| service.host());
        log.log(&AccessLogEntry {
            start: outcome.start,
            duration_ms: outcome.duration.as_millis().try_into().unwrap_or(u64::MAX),
            reporter: self.reporter(),
            pod: outcome.pod,
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
            bytes_sent: outcome.sent,
            bytes_received: outcome.received,
            response_flags: outcome.flags,
            error: outcome.error,
            authorization: self.authorization.as_deref(),
            srtt_us: outcome.srtt_us,
            retransmits: outcome.retransmits,
        });
    }

    fn reporter(&self) -> Reporter {
        match self.direction {
            Direction::Outbound => Reporter::Source,
            Direction::Inbound => Reporter::Destination,
        }
    }
}
