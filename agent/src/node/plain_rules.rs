//! What policies say of plaintext to the node's pods, worked out once for all pods that have the same policies.

use crate::decide::{asks_for_own_address, plaintext};
use crate::kernel::PlainRules;
use crate::mesh::{Authorization, Workload};
use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Default)]
pub struct RulesOfPolicies {
    known: RefCell<Vec<Known>>,
}

struct Known {
    authorization: Arc<Authorization>,
    /// Empty where the policies ask for no address of the pod's own.
    addresses: Vec<IpAddr>,
    rules: PlainRules,
}

impl RulesOfPolicies {
    /// What policies say of plaintext to a pod, as the kernel looks it up.
    pub fn of(&self, workload: &Workload) -> PlainRules {
        let Workload { authorization, addresses, .. } = workload;
        let addresses = if asks_for_own_address(authorization) { addresses.as_slice() } else { &[] };
        let mut known = self.known.borrow_mut();
        let is_same =
            |known: &&Known| Arc::ptr_eq(&known.authorization, authorization) && known.addresses == addresses;
        if let Some(known) = known.iter().find(is_same) {
            return known.rules.clone();
        }
        // What no mesh and no pod has any more is asked for by nobody.
        known.retain(|known| Arc::strong_count(&known.authorization) > 1);
        let rules = work_out(workload);
        known.push(Known {
            authorization: authorization.clone(),
            addresses: addresses.to_vec(),
            rules: rules.clone(),
        });
        rules
    }
}

fn work_out(workload: &Workload) -> PlainRules {
    let rules = plaintext(workload);
    if rules.as_ref().is_some_and(|rules| rules.is_too_large) {
        tracing::warn!(
            pod = %workload.name,
            "its AuthorizationPolicies name more networks and ports than the node works out, so that nobody may connect in plain to it, \
             and to others that have the same policies: write fewer or larger networks"
        );
    }
    rules.map_or_else(PlainRules::default, |rules| PlainRules {
        default: Some(rules.default),
        ports: rules.ports,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Settings, parse, snapshot};
    use crate::mesh::Mesh;
    use std::time::Instant;

    #[test]
    fn pods_with_the_same_policies_share_what_is_worked_out() {
        let blocks: Vec<_> = (0..1_000).map(|i| format!("10.1.{}.{}/32", i / 256, i % 256)).collect();
        let mut text = format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p}}, \
             spec: {{rules: [{{from: [{{source: {{ipBlocks: [{}]}}}}]}}]}}}}\n",
            blocks.join(", ")
        );
        for pod in 0..250 {
            text += &format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p{pod}}}, spec: {{nodeName: n1}}, \
                 status: {{podIP: 10.0.0.{pod}}}}}\n"
            );
        }
        let objects = parse("x.yaml", text.as_bytes()).unwrap();
        let mesh = snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap();
        let rules = RulesOfPolicies::default();
        let begun = Instant::now();
        let mut workloads = mesh.workloads.values();
        let first = rules.of(workloads.next().unwrap());
        let once = begun.elapsed();
        assert!(workloads.all(|workload| rules.of(workload) == first));
        assert_eq!(rules.known.borrow().len(), 1);
        println!("once: {once:?}, for 250 pods: {:?}", begun.elapsed());
        drop(mesh);
        let other = snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap();
        rules.of(other.workloads.values().next().unwrap());
        assert_eq!(rules.known.borrow().len(), 1, "what nobody has any more is forgotten");
    }

    #[test]
    fn policies_that_ask_for_the_pods_own_address_are_worked_out_for_each() {
        let mut text = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p}, \
             spec: {rules: [{when: [{key: destination.ip, values: [10.0.0.1]}]}]}}\n"
            .to_owned();
        for pod in 1..=2 {
            text += &format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p{pod}}}, spec: {{nodeName: n1}}, \
                 status: {{podIP: 10.0.0.{pod}}}}}\n"
            );
        }
        let objects = parse("x.yaml", text.as_bytes()).unwrap();
        let mesh = snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap();
        let rules = RulesOfPolicies::default();
        let of = |address: [u8; 4]| rules.of(&mesh.by_address[&IpAddr::from(address)]);
        assert_ne!(of([10, 0, 0, 1]), of([10, 0, 0, 2]));
    }
}
