//! The pods of this node as the kernel has them captured: what is decided of direct connections is decided by this, and not
//! by what the pods' objects say. An object may have no addresses yet, or others, while its pod has connections.

use super::not_direct::NotDirect;
use crate::mesh::{PodName, Workload};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A snapshot of the captured pods of this node, by the cookie of their network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    generation: u64,
    policy: u64,
    pods: HashMap<u64, Placed>,
    by_address: HashMap<IpAddr, u64>,
}

/// A pod that the node has captured, or has let go while its connections go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// With the addresses that the kernel has for the pod: the first of each family.
    pub workload: Arc<Workload>,
    pub standing: Standing,
}

/// What the node does with the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is in the mesh. The kernel owns the path of its connections within the node, or does not for this reason.
    Member(Result<(), NotDirect>),
    /// Its object says that it is in the mesh no longer. What it has opened goes on.
    Released,
}

/// The addresses that the kernel has for a pod: one of each family at the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodAddresses {
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

impl Placement {
    /// The snapshot after this one, of these pods by netns cookie, under this generation of the mesh's policies
    /// (`Mesh::policy`).
    ///
    /// Its generation is another if anything that a decision was made by is another. A pod that is new changes no decision:
    /// none was made about it.
    pub fn next(&self, policy: u64, pods: HashMap<u64, Placed>) -> Self {
        let is_as_before = |(netns, before): (&u64, &Placed)| pods.get(netns) == Some(before);
        let holds = self.policy == policy && self.pods.iter().all(is_as_before);
        let generation = if holds { self.generation } else { self.generation + 1 };
        let mut by_address = HashMap::new();
        let mut disputed = Vec::new();
        for (netns, placed) in &pods {
            for ip in PodAddresses::of(&placed.workload).iter() {
                if by_address.insert(ip, *netns).is_some() {
                    disputed.push(ip);
                }
            }
        }
        // Nobody knows which of two pods is meant by an address that both have.
        for ip in disputed {
            by_address.remove(&ip);
        }
        Self { generation, policy, pods, by_address }
    }

    /// Grows whenever a decision by an earlier snapshot may be another by this one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The pod in the network namespace with this cookie.
    pub fn pod(&self, netns: u64) -> Option<&Placed> {
        self.pods.get(&netns)
    }

    /// The netns cookie of the pod that has this address. `None` also where two pods have it.
    pub fn at(&self, ip: IpAddr) -> Option<u64> {
        self.by_address.get(&ip.to_canonical()).copied()
    }

    /// The member of the mesh that has this name.
    pub fn member(&self, name: &PodName) -> Option<&Workload> {
        let of_name = |placed: &&Placed| placed.workload.name == *name && placed.is_member();
        self.pods.values().find(of_name).map(|placed| &*placed.workload)
    }
}

impl Placed {
    pub fn is_member(&self) -> bool {
        matches!(self.standing, Standing::Member(_))
    }
}

impl PodAddresses {
    /// As the kernel is told of the pod.
    pub fn of(workload: &Workload) -> Self {
        let mut own = Self::default();
        for ip in [false, true].into_iter().filter_map(|ipv6| workload.address(ipv6)) {
            match ip {
                IpAddr::V4(ip) => own.ipv4 = Some(ip),
                IpAddr::V6(ip) => own.ipv6 = Some(ip),
            }
        }
        own
    }

    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }

    /// The pairs of addresses by which one pod reaches another: those of the families that both have.
    pub fn pairs(self, other: Self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let ipv4 = self.ipv4.zip(other.ipv4).map(|(from, to)| (from.into(), to.into()));
        let ipv6 = self.ipv6.zip(other.ipv6).map(|(from, to)| (from.into(), to.into()));
        ipv4.into_iter().chain(ipv6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Settings, parse, snapshot};
    use crate::mesh::Mesh;

    /// A pod with these addresses, that is direct or is not.
    fn placed(name: &str, ips: &[&str], is_direct: bool) -> Placed {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{pillion.dev/capture: enabled}}}}, \
             spec: {{nodeName: n1}}}}"
        );
        let objects = parse("x.yaml", text.as_bytes()).unwrap();
        let mesh = snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap();
        let mut workload = Workload::clone(mesh.workloads.values().next().unwrap());
        workload.addresses = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let direct = if is_direct { Ok(()) } else { Err(NotDirect::PodDisabled) };
        Placed { workload: Arc::new(workload), standing: Standing::Member(direct) }
    }

    #[test]
    fn a_generation_ends_when_anything_changes_that_was_known_and_a_new_pod_ends_none() {
        let a = || placed("a", &["10.0.0.1"], true);
        let first = Placement::default().next(1, HashMap::from([(1, a())]));
        let b = placed("b", &["10.0.0.2"], true);
        let second = first.next(1, HashMap::from([(1, a()), (2, b.clone())]));
        assert_eq!(second.generation(), first.generation(), "a pod that is new");
        for (what, policy, pods) in [
            ("policies", 2, vec![(1, a()), (2, b.clone())]),
            ("an address", 1, vec![(1, placed("a", &["10.0.0.3"], true)), (2, b.clone())]),
            ("a path", 1, vec![(1, placed("a", &["10.0.0.1"], false)), (2, b.clone())]),
            ("a pod that is gone", 1, vec![(2, b.clone())]),
            ("a network namespace", 1, vec![(3, a()), (2, b)]),
        ] {
            let third = second.next(policy, pods.into_iter().collect());
            assert_eq!(third.generation(), second.generation() + 1, "{what}");
        }
    }

    #[test]
    fn a_pod_is_found_by_the_addresses_that_the_kernel_has_for_it_and_by_no_others() {
        let pods = HashMap::from([
            (1, placed("a", &["10.0.0.1", "fd00::1", "10.0.0.9"], true)),
            (2, placed("b", &["10.0.0.2"], true)),
            (3, placed("c", &["10.0.0.2", "fd00::3"], true)),
        ]);
        let placement = Placement::default().next(1, pods);
        for (ip, expected) in [
            ("10.0.0.1", Some(1)),
            ("::ffff:10.0.0.1", Some(1)),
            ("fd00::1", Some(1)),
            // The kernel has one address of each family.
            ("10.0.0.9", None),
            // Two pods have it.
            ("10.0.0.2", None),
            ("fd00::3", Some(3)),
            ("10.0.0.8", None),
        ] {
            assert_eq!(placement.at(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}
