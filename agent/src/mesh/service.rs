//! Services and the endpoints behind them.

use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

/// A Service with at least one cluster IP; headless ones need no load balancing and are not kept.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub cluster_ips: Vec<IpAddr>,
    /// The Service's TCP ports.
    pub ports: Vec<ServicePort>,
}

/// One port of a Service, with the endpoints that may take its connections now.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    pub port: u16,
    /// Empty where the Service has one port without a name.
    pub name: String,
    /// Ready endpoints; where no endpoint is ready, those that still serve while they terminate (as kube-proxy
    /// does). Sorted, so that equal objects give equal snapshots.
    pub endpoints: Vec<Endpoint>,
}

/// Where one backend of a Service port listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    pub address: SocketAddr,
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
