//! Permits for direct connections, as the agent makes them: by asking what policies say of two captured pods.

use super::node;
use pillion_agent::decide::{Permit, Placed, Placement, Standing, direct};
use pillion_agent::manifest::{ROOT_NAMESPACE, Settings, parse, snapshot};
use pillion_agent::mesh::{Mesh, TrustDomains, Workload};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// A captured pod that policies say nothing of.
#[derive(Clone, Debug)]
pub struct Party {
    pub netns: u64,
    pub addresses: Vec<IpAddr>,
}

impl From<&node::Pod> for Party {
    fn from(pod: &node::Pod) -> Self {
        Self { netns: pod.cookie, addresses: vec![pod.ipv4.into(), pod.ipv6.into()] }
    }
}

/// Leave for a client to connect to a port of a server directly, under this generation.
pub fn permit(generation: u64, client: impl Into<Party>, server: impl Into<Party>, port: u16) -> Permit {
    let (client, server) = (client.into(), server.into());
    let (source, destination) = (client.netns, server.netns);
    let pods = HashMap::from([placed("client", client), placed("server", server)]);
    let first = Placement::default().next(1, pods.clone());
    // Every change of policies is a generation.
    let placement = match generation {
        0 => Placement::default().next(0, pods),
        _ => (2..=generation).fold(first, |placement, policy| placement.next(policy, pods.clone())),
    };
    assert_eq!(placement.generation(), generation);
    direct(&placement, source, destination, port).unwrap()
}

fn placed(name: &str, party: Party) -> (u64, Placed) {
    static WORKLOAD: OnceLock<Arc<Workload>> = OnceLock::new();
    let workload = WORKLOAD.get_or_init(|| {
        let text = "{apiVersion: v1, kind: Pod, metadata: {name: x, labels: {pillion.dev/capture: enabled}}, \
                    spec: {nodeName: test-node}}";
        let objects = parse("x.yaml", text.as_bytes()).unwrap();
        let settings = Settings {
            node: "test-node".to_owned(),
            trust_domains: TrustDomains::new("cluster.local".parse().unwrap(), []),
            root_namespace: ROOT_NAMESPACE.to_owned(),
            last_good: None,
        };
        let mesh = snapshot::build(&objects, &settings, &Mesh::default()).unwrap();
        mesh.workloads.into_values().next().unwrap()
    });
    let mut workload = Workload::clone(workload);
    workload.name.name = name.to_owned();
    workload.addresses = party.addresses;
    (party.netns, Placed { workload: Arc::new(workload), standing: Standing::Member(Ok(())) })
}
