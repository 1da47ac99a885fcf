//! Captured pods whose objects are gone: deleted by force, or lost with the API server's last hour.

use crate::fair::most_of_each;
use crate::mesh::{Mesh, Vanished, Workload};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// Addresses that are kept. Beyond that the namespaces with most of them lose those that they have had for the longest time.
const MOST: usize = 16_384;

/// The pods that `next` does not speak of any more and `previous` did. An object that claims the address, or that says that the
/// pod is captured no more, is better evidence.
pub fn vanished(previous: &Mesh, next: &Mesh) -> HashMap<IpAddr, Vanished> {
    let is_vanished = |ip: &IpAddr, pod: &Workload| {
        let is_released =
            next.workloads.get(&pod.name).is_some_and(|now| now.uid == pod.uid && !now.captured);
        !next.by_address.contains_key(ip) && !next.services.contains_key(ip) && !is_released
    };
    let before = previous.vanished.iter().filter(|(ip, vanished)| is_vanished(ip, &vanished.workload));
    let anew = previous.by_address.iter().filter(|(ip, pod)| pod.captured && is_vanished(ip, pod));
    let anew = anew.map(|(ip, pod)| (*ip, Vanished { workload: pod.clone(), since: next.generation }));
    within(MOST, before.map(|(ip, vanished)| (*ip, vanished.clone())).chain(anew).collect())
}

fn within(most: usize, vanished: HashMap<IpAddr, Vanished>) -> HashMap<IpAddr, Vanished> {
    if vanished.len() <= most {
        return vanished;
    }
    let mut by_namespace: BTreeMap<String, Vec<(IpAddr, Vanished)>> = BTreeMap::new();
    for (ip, pod) in vanished {
        by_namespace.entry(pod.workload.name.namespace.clone()).or_default().push((ip, pod));
    }
    let most = most_of_each(by_namespace.values().map(Vec::len).collect(), most);
    let newest = by_namespace.into_values().flat_map(|mut pods| {
        pods.sort_by_key(|(ip, pod)| (Reverse(pod.since), *ip));
        pods.truncate(most);
        pods
    });
    newest.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Settings, parse, snapshot};
    use std::collections::BTreeSet;

    fn pod(namespace: &str, name: &str, last: usize, captured: bool) -> String {
        let capture = if captured { "enabled" } else { "disabled" };
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{namespace: {namespace}, name: {name}, uid: {name}, labels: {{pillion.dev/capture: {capture}}}}}, \
             spec: {{nodeName: n1}}, status: {{podIP: 10.0.{}.{}}}}}\n---\n",
            last / 256,
            last % 256
        )
    }

    fn mesh(objects: &str, previous: &Mesh) -> Mesh {
        snapshot::build(&parse("x.yaml", objects.as_bytes()).unwrap(), &Settings::default(), previous)
            .unwrap()
    }

    fn addresses(mesh: &Mesh) -> BTreeSet<String> {
        mesh.vanished.keys().map(ToString::to_string).collect()
    }

    // proves: SEC-3
    #[test]
    fn a_captured_pod_whose_object_is_gone_keeps_its_address_until_another_object_claims_it() {
        let (a, b) = (pod("shop", "a", 1, true), pod("shop", "b", 2, true));
        let plain = pod("shop", "plain", 3, false);
        let first = mesh(&(a.clone() + &b + &plain), &Mesh::default());
        assert_eq!(addresses(&first), BTreeSet::new());
        let second = mesh(&a, &first);
        assert_eq!(addresses(&second), ["10.0.0.2".to_owned()].into());
        assert_eq!(second.owner("10.0.0.2".parse().unwrap()).unwrap().name.name, "b");
        assert!(!snapshot::same(&first, &second));
        // For as long as it takes.
        let third = mesh(&a, &second);
        assert!(snapshot::same(&second, &third));
        for claims in [b, pod("shop", "c", 2, false)] {
            let fourth = mesh(&(a.clone() + &claims), &third);
            assert_eq!(addresses(&fourth), BTreeSet::new(), "{claims}");
        }
        // Its name is another pod's now, and says nothing of this one.
        let elsewhere = pod("shop", "b", 9, true).replace("uid: b", "uid: b2");
        assert_eq!(addresses(&mesh(&(a.clone() + &elsewhere), &third)), ["10.0.0.2".to_owned()].into());
    }

    #[test]
    fn a_pod_that_is_captured_no_more_has_not_vanished() {
        let first = mesh(&pod("shop", "a", 1, true), &Mesh::default());
        let released = pod("shop", "a", 1, false).replace("status: {podIP: 10.0.0.1}", "status: {}");
        assert_eq!(addresses(&mesh(&released, &first)), BTreeSet::new());
    }

    // proves: ISO-3
    #[test]
    fn a_namespace_of_many_pods_pushes_out_its_own() {
        let many: String = (0..30).map(|number| pod("churn", &format!("c{number}"), number, true)).collect();
        let first =
            mesh(&(many + &pod("shop", "a", 300, true) + &pod("shop", "b", 301, true)), &Mesh::default());
        let second = mesh("", &first);
        let kept = within(10, second.vanished);
        let of =
            |namespace: &str| kept.values().filter(|pod| pod.workload.name.namespace == namespace).count();
        assert_eq!((of("shop"), of("churn")), (2, 8));
    }
}
