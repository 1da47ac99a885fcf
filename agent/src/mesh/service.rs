//! Services and the endpoints behind them.

use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// A Service with at least one cluster IP; headless ones need no load balancing and are not kept.
///
/// Its size is that of its objects: each address is kept once, however many ports are served there.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub cluster_ips: Vec<IpAddr>,
    pub locality: Locality,
    /// Its objects are wrong: nobody is led to any endpoint, and nobody connects to its cluster IPs in plain.
    pub is_refused: bool,
    /// The Service's TCP ports, in the order of their numbers, each number once.
    pub ports: Vec<ServicePort>,
    /// The hosts of each of its slices.
    pub slices: Vec<Vec<Host>>,
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

/// One port of a Service, and where it is served.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    pub port: u16,
    /// Empty where the Service has one port without a name.
    pub name: String,
    pub backends: Vec<Backend>,
}

/// A slice whose hosts serve a Service's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// The index of the slice in [`Service::slices`].
    pub slice: usize,
    /// The port at which all of its hosts serve.
    pub port: u16,
}

/// A host of a slice: one that is ready, or still serves while it terminates. Sorted by address within a slice, each address
/// once, so that equal objects give equal snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Host {
    pub address: IpAddr,
    /// The node that it is on, where its slice says so.
    pub node: Option<String>,
    /// It terminates, and serves still: good enough where nothing is ready.
    pub draining: bool,
}

/// Where one backend of a Service port listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint<'a> {
    pub address: SocketAddr,
    /// As the slice says it.
    pub node: Option<&'a str>,
    pub draining: bool,
}

impl Service {
    /// The port of this number, or `None` where the Service has no such TCP port.
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        let index = self.ports.binary_search_by_key(&port, |of_service| of_service.port).ok()?;
        self.ports.get(index)
    }

    /// The port's endpoints, sorted by address, or `None` where the Service has no such TCP port.
    pub fn endpoints(&self, port: u16) -> Option<Vec<Endpoint<'_>>> {
        let backends = &self.port(port)?.backends;
        let of_backend = |backend: &Backend| {
            let port = backend.port;
            self.slices.get(backend.slice).into_iter().flatten().map(move |host| Endpoint {
                address: SocketAddr::new(host.address, port),
                node: host.node.as_deref(),
                draining: host.draining,
            })
        };
        if let [backend] = backends.as_slice() {
            return Some(of_backend(backend).collect());
        }
        // Two slices may have one endpoint, while it moves from one to the other.
        let mut joined: BTreeMap<SocketAddr, Endpoint<'_>> = BTreeMap::new();
        for endpoint in backends.iter().flat_map(of_backend) {
            let known = joined.entry(endpoint.address).or_insert_with(|| endpoint.clone());
            known.draining &= endpoint.draining;
            known.node = known.node.or(endpoint.node);
        }
        Some(joined.into_values().collect())
    }

    /// The name that Istio's `destination_service` label carries.
    pub fn host(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }
}
