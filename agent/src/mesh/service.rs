//! Services and the endpoints behind them.

use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

/// A Service with at least one cluster IP; headless ones need no load balancing and are not kept.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub cluster_ips: Vec<IpAddr>,
    pub locality: Locality,
    /// The Service's TCP ports.
    pub ports: Vec<ServicePort>,
}

/// Which of its endpoints a Service wants for clients on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Locality {
    #[default]
    Anywhere,
    /// Those on the client's node, as long as there are any (`trafficDistribution: PreferSameNode`).
    PreferSameNode,
    /// Those on the client's node or none (`internalTrafficPolicy: Local`).
    OnlySameNode,
}

/// One port of a Service, with the endpoints that serve it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    pub port: u16,
    /// Empty where the Service has one port without a name.
    pub name: String,
    /// Those that are ready and those that still serve while they terminate. Sorted by address, so that equal objects
    /// give equal snapshots.
    pub endpoints: Vec<Endpoint>,
}

/// Where one backend of a Service port listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// The node that it is on, where its slice says so.
    pub node: Option<String>,
    /// It terminates, and serves still: good enough where nothing is ready.
    pub draining: bool,
}

impl Service {
    /// The port's endpoints, or `None` where the Service has no such TCP port.
    pub fn endpoints(&self, port: u16) -> Option<&[Endpoint]> {
        self.ports.iter().find(|p| p.port == port).map(|p| p.endpoints.as_slice())
    }

    /// The name that Istio's `destination_service` label carries.
    pub fn host(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }
}
