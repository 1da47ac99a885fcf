//! Who has which address: one address has one owner.

use super::{ManifestError, Place};
use crate::mesh::{Service, Workload};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use time::OffsetDateTime;

/// A pod that claims its addresses.
pub(super) struct Claimant<'a> {
    pub place: &'a Place,
    pub made: Option<OffsetDateTime>,
    pub workload: Workload,
}

/// Who writes the objects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Authors {
    /// Whoever runs the node.
    One,
    /// Everybody who may write into some namespace of a cluster, and the cluster itself.
    Many,
}

/// The owners of addresses.
#[derive(Default)]
pub(super) struct Owners<'a>(HashMap<IpAddr, Owner<'a>>);

struct Owner<'a> {
    place: &'a Place,
    /// The pod's index; none for a service.
    pod: Option<usize>,
    /// The service's name; empty for a pod.
    service: String,
}

impl<'a> Owners<'a> {
    /// Leaves each address to one pod: to one that goes on before one that ends, then to the newest.
    pub fn settle(pods: &mut [Claimant<'a>], authors: Authors, errors: &mut Vec<ManifestError>) -> Self {
        let mut owners: HashMap<IpAddr, Owner<'a>> = HashMap::with_capacity(pods.len());
        for next in 0..pods.len() {
            let mut kept = Vec::with_capacity(pods[next].workload.addresses.len());
            for address in std::mem::take(&mut pods[next].workload.addresses) {
                let owner = Owner { place: pods[next].place, pod: Some(next), service: String::new() };
                let Some(before) = owners.get(&address).and_then(|owner| owner.pod) else {
                    kept.push(address);
                    owners.insert(address, owner);
                    continue;
                };
                let (a, b) = (&pods[before], &pods[next]);
                // A pod whose sandbox is gone says that it has its address until the kubelet has said otherwise, and another
                // pod may have it by then.
                let is_on_its_way =
                    authors == Authors::Many && a.workload.terminating != b.workload.terminating;
                if !is_on_its_way {
                    let message = format!(
                        "pod {} and pod {} ({}) both have the address {address}",
                        b.workload.name, a.workload.name, a.place
                    );
                    errors.push(b.place.error("status.podIPs", message));
                }
                if (!b.workload.terminating, b.made) > (!a.workload.terminating, a.made) {
                    pods[before].workload.addresses.retain(|other| *other != address);
                    kept.push(address);
                    owners.insert(address, owner);
                }
            }
            pods[next].workload.addresses = kept;
        }
        Self(owners)
    }

    /// Gives a cluster IP to a service. False when somebody else has it.
    pub fn claim(
        &mut self,
        address: IpAddr,
        service: &Service,
        place: &'a Place,
        pods: &HashMap<IpAddr, Arc<Workload>>,
        errors: &mut Vec<ManifestError>,
    ) -> bool {
        let name = format!("service {}/{}", service.namespace, service.name);
        let Some(owner) = self.0.get(&address) else {
            self.0.insert(address, Owner { place, pod: None, service: name });
            return true;
        };
        let other = match pods.get(&address).filter(|_| owner.pod.is_some()) {
            Some(pod) => format!("pod {}", pod.name),
            None => owner.service.clone(),
        };
        let message = format!("{name} and {other} ({}) both have the address {address}", owner.place);
        errors.push(place.error("spec.clusterIPs", message));
        false
    }
}
