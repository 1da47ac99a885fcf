//! The agent, asked as the reference is: the one place here that knows how.

use crate::world::World;
use pillion_agent::manifest::{Settings, parse, snapshot};
use pillion_agent::mesh::{Mesh, MtlsMode, TrustDomains, Workload};
use serde_json::{Value, json};
use std::sync::Arc;

/// The pod of a world, as the agent builds it from the pod's and the policies' text.
///
/// # Errors
/// Why the agent refuses the objects.
pub fn workload(world: &World) -> Result<Arc<Workload>, String> {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod", "namespace": world.pod.namespace, "labels": world.pod.labels},
        "status": {"podIPs": world.pod.addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>()},
    });
    let items: Vec<&Value> = world.policies.iter().chain([&pod]).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let errors = |errors: Vec<_>| format!("{errors:?}");
    let objects = parse("world.json", list.to_string().as_bytes()).map_err(errors)?;
    let mut domains = world.trust_domains.iter().map(|domain| domain.parse().unwrap());
    let own = domains.next().unwrap();
    let settings = Settings {
        node: "n1".to_owned(),
        trust_domains: TrustDomains::new(own, domains),
        root_namespace: world.root_namespace.clone(),
    };
    let mesh = snapshot::build(&objects, &settings, &Mesh::default()).map_err(errors)?;
    Ok(mesh.by_address[&world.pod.addresses[0]].clone())
}

/// Whether a port takes connections without mutual TLS.
pub fn takes_plaintext(workload: &Workload, port: u16) -> bool {
    workload.mtls.mode(port) != MtlsMode::Strict
}
