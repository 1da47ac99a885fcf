//! Where the authority is.

use crate::manifest::names::is_subdomain;
use crate::mesh::{Mesh, Service};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use tokio::net::lookup_host;
use tokio::sync::watch;

/// A host name and a port. Its certificate has to be for that host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaAddr {
    pub host: String,
    port: u16,
}

impl CaAddr {
    /// Where to connect, the best first. A Service of the cluster is looked up in the mesh: an agent in the node's own network
    /// knows the cluster's DNS server as little as it needs it.
    ///
    /// # Errors
    /// Why there is nowhere to connect, in words.
    pub async fn endpoints(&self, mesh: &watch::Receiver<Arc<Mesh>>) -> Result<Vec<SocketAddr>, String> {
        let Some((name, namespace)) = self.service() else {
            let found = lookup_host((self.host.as_str(), self.port)).await;
            return Ok(found.map_err(|e| format!("{} cannot be resolved: {e}", self.host))?.collect());
        };
        let mesh = mesh.borrow().clone();
        self.of_service(&mesh, namespace, name)
    }

    /// `NAME.NAMESPACE.svc`, with or without the cluster's domain behind it.
    fn service(&self) -> Option<(&str, &str)> {
        let mut labels = self.host.split('.');
        let (name, namespace) = (labels.next()?, labels.next()?);
        (labels.next()? == "svc").then_some((name, namespace))
    }

    fn of_service(&self, mesh: &Mesh, namespace: &str, name: &str) -> Result<Vec<SocketAddr>, String> {
        if mesh.generation == 0 {
            return Err("no mesh is known yet, and so not its Service".to_owned());
        }
        let is_it = |service: &&Arc<Service>| service.namespace == namespace && service.name == name;
        let service = mesh.services.values().find(is_it);
        let service =
            service.ok_or_else(|| format!("there is no Service {namespace}/{name} with a cluster IP"))?;
        let endpoints = service
            .endpoints(self.port)
            .ok_or_else(|| format!("the Service {namespace}/{name} has no port {}", self.port))?;
        let (draining, ready): (Vec<_>, Vec<_>) =
            endpoints.into_iter().partition(|endpoint| endpoint.draining);
        let all: Vec<_> = ready.into_iter().chain(draining).map(|endpoint| endpoint.address).collect();
        if all.is_empty() {
            return Err(format!("the Service {namespace}/{name} has no ready endpoint"));
        }
        Ok(all)
    }
}

impl FromStr for CaAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        match parts {
            Some((host, port)) if is_subdomain(host) && port != 0 => Ok(Self { host: host.to_owned(), port }),
            _ => Err("write HOST:PORT with the host's name, for example pillion-ca.pillion-system.svc:15012"
                .to_owned()),
        }
    }
}

impl fmt::Display for CaAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}
