//! Who talks to whom over a direct connection, seen from one of its ends.

use super::directory::{Known, Pod};
use crate::decide::{Connection, judge};
use crate::kernel::{AttestedFlow, from_address, to_address};
use crate::telemetry::{AuthorizationLog, ConnectionSecurity, ConnectionSeries, Direction, Parties};
use pillion_ebpf_common::{Address, Event, Ip};
use std::net::SocketAddr;
use std::sync::Arc;

/// One end of a direct connection, as the kernel tells of it.
#[derive(Clone, Copy, Debug)]
pub struct End {
    pub key: EndKey,
    pub is_client: bool,
    /// The client's netns cookie, at the server's end; 0 where that was not told.
    pub client: u64,
    /// What the app has asked for, at the client's end.
    pub asked: Address,
}

/// Names an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndKey {
    /// The netns cookie of its pod.
    pub netns: u64,
    pub local: Address,
    pub remote: Address,
}

/// Names what ends have in common that are told of in the same words, apart from their ports.
#[derive(PartialEq, Eq, Hash)]
pub struct RelationKey {
    netns: u64,
    is_client: bool,
    client: u64,
    remote: Ip,
    asked: Ip,
}

/// What is found out once for all connections between the same parties.
pub struct Relation {
    pub pod: Pod,
    pub series: ConnectionSeries,
    /// Those of the first connection; ports are each connection's own.
    parties: Parties,
}

impl End {
    pub fn of(event: &Event) -> Self {
        let is_client = event.is_client == 1;
        Self {
            key: EndKey { netns: event.netns, local: event.local, remote: event.remote },
            is_client,
            client: event.client,
            asked: if is_client { event.asked } else { Address::default() },
        }
    }

    pub fn client_of(flow: &AttestedFlow) -> Self {
        let (local, remote) = (to_address(flow.client), to_address(flow.server));
        Self {
            key: EndKey { netns: flow.client_netns, local, remote },
            is_client: true,
            client: 0,
            asked: Address::default(),
        }
    }

    /// `netns` is the server's.
    pub fn server_of(flow: &AttestedFlow, netns: u64) -> Self {
        let (local, remote) = (to_address(flow.server), to_address(flow.client));
        Self {
            key: EndKey { netns, local, remote },
            is_client: false,
            client: flow.client_netns,
            asked: Address::default(),
        }
    }

    /// The end of a direct connection that a pod has in `netns`.
    pub fn in_flow(flow: &AttestedFlow, local: SocketAddr, netns: u64) -> Self {
        if local == flow.client { Self::client_of(flow) } else { Self::server_of(flow, netns) }
    }

    pub fn relation_key(&self) -> RelationKey {
        RelationKey {
            netns: self.key.netns,
            is_client: self.is_client,
            client: self.client,
            remote: self.key.remote.ip,
            asked: self.asked.ip,
        }
    }
}

impl Relation {
    /// `None` when the end's pod is not (or no longer) one of this node's.
    pub fn of(end: &End, known: &Known) -> Option<Self> {
        let pod = known.pod(end.key.netns)?.clone();
        let parties = if end.is_client { to_server(end, &pod, known) } else { from_client(end, &pod, known) };
        Some(Self { series: pod.metrics.series(parties.labels()), pod, parties })
    }

    /// What the server's policies say of a connection with this end, where it is the server's. (They have allowed it: the
    /// kernel lets nothing else be direct.) Counts it.
    pub fn authorization(&self, end: &End) -> Option<Arc<AuthorizationLog>> {
        let policies = &self.pod.workload.authorization;
        if end.is_client || policies.policies().is_empty() {
            return None;
        }
        let Addresses { source, upstream, .. } = Addresses::of(end);
        let identity = self.parties.source_principal.as_ref();
        let judgement = judge(policies, &Connection { source: source.ip(), identity, destination: upstream });
        self.pod.metrics.authorization().count(&judgement);
        AuthorizationLog::new(&judgement).map(Arc::new)
    }

    /// The parties of a connection with this end.
    pub fn parties(&self, end: &End) -> Parties {
        let Addresses { source, destination, upstream } = Addresses::of(end);
        Parties {
            source_address: source,
            destination_address: destination,
            upstream_address: Some(upstream),
            ..self.parties.clone()
        }
    }
}

/// The kernel lets a connection be direct only to a captured pod of this node, and an address is one pod's at a time.
fn to_server(end: &End, pod: &Pod, known: &Known) -> Parties {
    let addresses = Addresses::of(end);
    let mesh = known.mesh();
    let ip = addresses.upstream.ip();
    let captured = known.directory.netns(ip).and_then(|netns| known.pod(netns)).map(|pod| &pod.workload);
    Parties {
        direction: Direction::Outbound,
        source: Some(pod.workload.clone()),
        source_principal: Some(pod.workload.identity.clone()),
        source_address: addresses.source,
        destination: captured.or_else(|| mesh.by_address.get(&ip)).cloned(),
        destination_principal: captured.map(|server| server.identity.clone()),
        destination_address: addresses.destination,
        upstream_address: Some(addresses.upstream),
        service: mesh.services.get(&addresses.destination.ip()).cloned(),
        security: ConnectionSecurity::KernelAttested,
        authorization: None,
    }
}

/// Who the client is, its namespace's cookie proves. Its address may be another pod's by now: where nothing else is
/// told, that names a workload for people to read, and no principal.
fn from_client(end: &End, pod: &Pod, known: &Known) -> Parties {
    let addresses = Addresses::of(end);
    let attested = known.pod(end.client).map(|client| client.workload.clone());
    let named = || known.mesh().by_address.get(&addresses.source.ip()).cloned();
    Parties {
        direction: Direction::Inbound,
        source_principal: attested.as_ref().map(|client| client.identity.clone()),
        source: attested.or_else(|| if end.client == 0 { named() } else { None }),
        source_address: addresses.source,
        destination: Some(pod.workload.clone()),
        destination_principal: Some(pod.workload.identity.clone()),
        destination_address: addresses.destination,
        upstream_address: Some(addresses.upstream),
        service: None,
        security: ConnectionSecurity::KernelAttested,
        authorization: None,
    }
}

struct Addresses {
    source: SocketAddr,
    destination: SocketAddr,
    upstream: SocketAddr,
}

impl Addresses {
    fn of(end: &End) -> Self {
        let [local, remote] = [end.key.local, end.key.remote].map(|address| from_address(&address));
        if !end.is_client {
            return Self { source: remote, destination: local, upstream: local };
        }
        // Where it was not told, the app got what it asked for.
        let asked = if end.asked.port == 0 { remote } else { from_address(&end.asked) };
        Self { source: local, destination: asked, upstream: remote }
    }
}
