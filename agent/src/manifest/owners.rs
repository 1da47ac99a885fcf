//! Who has which address: one address has one owner.

use super::{ManifestError, Place};
use crate::mesh::{Mesh, Service, Workload};
use std::collections::{BTreeSet, HashMap, HashSet};
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
    /// Leaves each address to one pod, and none of `services` to any. Gives also which addresses are disputed though one of those
    /// who claim them is captured.
    ///
    /// Whoever may write a pod's status may have it claim any address. So an address that a captured pod claims is no plain pod's,
    /// and who had it before and still claims it keeps it. Else it is left to one that goes on before one that ends, then to the
    /// newest.
    pub fn settle(
        pods: &mut [Claimant<'a>],
        authors: Authors,
        services: &HashSet<IpAddr>,
        previous: &Mesh,
        errors: &mut Vec<ManifestError>,
    ) -> (Self, BTreeSet<IpAddr>) {
        let mut owners: HashMap<IpAddr, Owner<'a>> = HashMap::with_capacity(pods.len());
        let mut disputed = BTreeSet::new();
        for next in 0..pods.len() {
            let mut kept = Vec::with_capacity(pods[next].workload.addresses.len());
            for address in std::mem::take(&mut pods[next].workload.addresses) {
                if services.contains(&address) {
                    let message = format!(
                        "pod {} claims the address {address}, which is a Service's and stays so",
                        pods[next].workload.name
                    );
                    errors.push(pods[next].place.error("status.podIPs", message));
                    continue;
                }
                let owner = Owner { place: pods[next].place, pod: Some(next), service: String::new() };
                let Some(before) = owners.get(&address).and_then(|owner| owner.pod) else {
                    kept.push(address);
                    owners.insert(address, owner);
                    continue;
                };
                let (a, b) = (&pods[before], &pods[next]);
                // A pod whose sandbox is gone says that it has its address until the kubelet has said otherwise, and another
                // pod may have it by then.
                let is_on_its_way = authors == Authors::Many
                    && a.workload.terminating != b.workload.terminating
                    && a.workload.captured == b.workload.captured;
                if a.workload.captured || b.workload.captured {
                    disputed.insert(address);
                }
                if !is_on_its_way {
                    let message = format!(
                        "pod {} and pod {} ({}) both have the address {address}",
                        b.workload.name, a.workload.name, a.place
                    );
                    errors.push(b.place.error("status.podIPs", message));
                }
                let had = previous.by_address.get(&address).map(|owner| &owner.uid);
                let rank = |claimant: &Claimant<'_>| {
                    let Workload { captured, terminating, uid, .. } = &claimant.workload;
                    (*captured, !terminating, had == Some(uid), claimant.made)
                };
                if rank(b) > rank(a) {
                    pods[before].workload.addresses.retain(|other| *other != address);
                    kept.push(address);
                    owners.insert(address, owner);
                }
            }
            pods[next].workload.addresses = kept;
        }
        (Self(owners), disputed)
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
