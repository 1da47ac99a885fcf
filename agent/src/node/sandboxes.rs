//! Pods as the mesh has them, joined with sandboxes as the container runtime has them.
//!
//! The mesh says who a pod is, and whether it is to be captured. The runtime says where its network namespace is, and when:
//! before the pod's first container, and so before its object has addresses. Either may come first.

use crate::mesh::{PodName, Workload};
use crate::sandbox::Sandbox;
use std::collections::HashMap;
use std::sync::Arc;

/// The sandboxes of this node.
#[derive(Default)]
pub struct Sandboxes {
    /// The newest of a pod last. There is more than one while one is replaced.
    by_pod: HashMap<PodName, Vec<Sandbox>>,
}

impl Sandboxes {
    pub fn all(&self) -> impl Iterator<Item = &Sandbox> {
        self.by_pod.values().flatten()
    }

    /// Enters a sandbox; gives whether it was another, or not there.
    pub fn put(&mut self, sandbox: &Sandbox) -> bool {
        let of_pod = self.by_pod.entry(sandbox.pod.clone()).or_default();
        if of_pod.contains(sandbox) {
            return false;
        }
        of_pod.retain(|other| other.id != sandbox.id);
        of_pod.push(sandbox.clone());
        true
    }

    /// Gives whether it was there.
    pub fn remove(&mut self, id: &str) -> bool {
        let before = self.all().count();
        self.by_pod.retain(|_, of_pod| {
            of_pod.retain(|sandbox| sandbox.id != id);
            !of_pod.is_empty()
        });
        self.all().count() < before
    }

    pub fn replace(&mut self, all: &[Sandbox]) {
        self.by_pod.clear();
        for sandbox in all {
            self.put(sandbox);
        }
    }

    /// The one that is the pod's now, unless the runtime says that it is on the host network. One whose network is known counts
    /// more than one whose network the runtime does not name.
    pub fn sandbox(&self, workload: &Workload) -> Option<&Sandbox> {
        let of_pod = self.by_pod.get(&workload.name)?;
        let own = || of_pod.iter().rev().filter(|sandbox| sandbox.is_of(workload) && !sandbox.on_host);
        own().find(|sandbox| sandbox.netns.is_some()).or_else(|| own().next())
    }

    /// The pod as it is on this node: in its sandbox's network namespace. Where the runtime does not name one, the object may. Of the
    /// addresses that the object says only those count that the sandbox has, where its addresses are known: whoever may write
    /// the pod's status may have it say any.
    pub fn place(&self, workload: &Arc<Workload>) -> Option<Arc<Workload>> {
        let sandbox = self.sandbox(workload)?;
        let mut placed = Workload::clone(workload);
        placed.netns = sandbox.netns.clone().or(placed.netns);
        if !sandbox.addresses.is_empty() {
            placed.addresses.retain(|address| sandbox.addresses.contains(address));
        }
        if placed.addresses.is_empty() {
            placed.addresses.clone_from(&sandbox.addresses);
        }
        Some(Arc::new(placed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Settings, parse, snapshot};
    use crate::mesh::Mesh;

    fn workload(uid: &str, ips: &str) -> Arc<Workload> {
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: web, namespace: shop, {uid} \
              labels: {{pillion.dev/capture: enabled}}}}, spec: {{nodeName: n1}}, status: {{{ips}}}}}"
        );
        let objects = parse("test.yaml", pod.as_bytes()).unwrap();
        let mesh = snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap();
        mesh.workloads.into_values().next().unwrap()
    }

    #[test]
    fn a_pod_is_where_its_sandbox_is() {
        let mut sandboxes = Sandboxes::default();
        let web = workload("uid: uid-web,", "");
        assert!(sandboxes.place(&web).is_none());
        assert!(
            sandboxes.put(&Sandbox::of_test("a", "web")) && !sandboxes.put(&Sandbox::of_test("a", "web"))
        );
        let placed = sandboxes.place(&web).unwrap();
        assert_eq!(placed.netns.as_deref(), Some("/run/netns/a".as_ref()));
        assert_eq!(placed.addresses, [std::net::IpAddr::from([10, 0, 0, 9])], "the object has none yet");
    }

    // proves: SEC-3
    #[test]
    fn a_pod_has_no_address_that_its_sandbox_does_not_have() {
        let mut sandboxes = Sandboxes::default();
        let mut sandbox = Sandbox::of_test("a", "web");
        let own: [std::net::IpAddr; 2] = [[10, 0, 0, 9].into(), [10, 0, 0, 10].into()];
        sandbox.addresses = own.to_vec();
        sandboxes.put(&sandbox);
        let addresses = |sandboxes: &Sandboxes, ips: &str| {
            sandboxes.place(&workload("uid: uid-web,", ips)).unwrap().addresses.clone()
        };
        assert_eq!(addresses(&sandboxes, "podIPs: [{ip: 10.0.0.10}]"), own[1..], "the object chooses");
        assert_eq!(addresses(&sandboxes, "podIPs: [{ip: 10.0.0.3}, {ip: 10.0.0.9}]"), own[..1]);
        assert_eq!(addresses(&sandboxes, "podIPs: [{ip: 10.0.0.3}]"), own);
        sandbox.addresses.clear();
        sandboxes.replace(&[sandbox]);
        let said: [std::net::IpAddr; 1] = [[10, 0, 0, 3].into()];
        assert_eq!(addresses(&sandboxes, "podIPs: [{ip: 10.0.0.3}]"), said, "nobody else says any");
    }

    // proves: SEC-3
    #[test]
    fn a_pod_whose_network_the_runtime_does_not_name_is_on_this_node_none_the_less() {
        let mut sandboxes = Sandboxes::default();
        let web = workload("uid: uid-web,", "");
        let mut unknown = Sandbox::of_test("b", "web");
        unknown.netns = None;
        sandboxes.put(&unknown);
        assert_eq!(sandboxes.place(&web).unwrap().netns, None);
        sandboxes.replace(&[Sandbox::of_test("a", "web"), unknown.clone()]);
        assert_eq!(sandboxes.place(&web).unwrap().netns, Some("/run/netns/a".into()));
        unknown.on_host = true;
        sandboxes.replace(&[unknown]);
        assert!(sandboxes.place(&web).is_none());
    }

    #[test]
    fn an_earlier_pod_under_the_same_name_is_another() {
        let mut sandboxes = Sandboxes::default();
        sandboxes.put(&Sandbox::of_test("a", "web"));
        assert!(sandboxes.place(&workload("uid: another,", "")).is_none());
        assert!(sandboxes.place(&workload("", "")).is_some(), "a manifest without a uid");
    }

    #[test]
    fn the_newest_sandbox_of_a_pod_counts_until_it_is_gone() {
        let mut sandboxes = Sandboxes::default();
        let web = workload("uid: uid-web,", "");
        let netns = |sandboxes: &Sandboxes| sandboxes.place(&web).and_then(|placed| placed.netns.clone());
        sandboxes.replace(&[Sandbox::of_test("a", "web"), Sandbox::of_test("b", "web")]);
        assert_eq!(netns(&sandboxes), Some("/run/netns/b".into()));
        assert!(sandboxes.remove("b") && !sandboxes.remove("b"));
        assert_eq!(netns(&sandboxes), Some("/run/netns/a".into()));
        assert!(sandboxes.remove("a"));
        assert_eq!((netns(&sandboxes), sandboxes.all().count()), (None, 0));
    }
}
