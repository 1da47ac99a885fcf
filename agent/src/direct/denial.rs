//! Who wanted to connect in plain, and which policy's rule did not let them.

use super::directory::{Known, Pod};
use crate::decide::{Connection, judge};
use crate::kernel::from_address;
use crate::telemetry::{AuthorizationLog, ConnectionSecurity, Direction, Parties};
use pillion_ebpf_common::Denial;
use std::sync::Arc;

/// The pod, both ends as far as they are known, and what its policies say in words. Counts it. `None` when the pod is not
/// (or no longer) one of this node's.
///
/// The kernel has decided by what the agent had told it. Where policies have changed since, what is told is what they say
/// now.
pub fn denied<'a>(denial: &Denial, known: &'a Known) -> Option<(&'a Pod, Parties, String)> {
    let pod = known.pod(denial.netns)?;
    let (client, server) = (from_address(&denial.client), from_address(&denial.server));
    let connection = Connection { source: client.ip(), identity: None, destination: server };
    let judgement = judge(&pod.workload.authorization, &connection);
    pod.metrics.authorization().count(&judgement);
    let parties = Parties {
        direction: Direction::Inbound,
        // By its address: a name for people to read, and no principal.
        source: known.mesh().by_address.get(&client.ip()).cloned(),
        source_principal: None,
        source_address: client,
        destination: Some(pod.workload.clone()),
        destination_principal: None,
        destination_address: server,
        upstream_address: None,
        service: None,
        security: ConnectionSecurity::None,
        authorization: AuthorizationLog::new(&judgement).map(Arc::new),
    };
    Some((pod, parties, format!("in plain, {}", judgement.verdict)))
}
