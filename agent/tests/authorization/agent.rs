//! The agent, asked as the reference is: the one place here that knows how.

use crate::world::{Connection, Verdict, World};
use pillion_agent::decide::{self, Matched, PlaintextRules, plaintext};
use pillion_agent::manifest::{Settings, parse, snapshot};
use pillion_agent::mesh::{Mesh, MtlsMode, SpiffeId, TrustDomains, Workload};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

/// What becomes of connections to a world's pod.
///
/// # Errors
/// Why the agent refuses the policies; or that the kernel would be told something else of plaintext.
pub fn judge(world: &World, asked: &[Connection]) -> Result<Vec<Verdict>, String> {
    let pod = workload(world)?;
    let in_kernel = plaintext(&pod);
    let verdict = |connection: &Connection| {
        let port = connection.destination.port();
        if connection.identity.is_some() {
            return Ok(authorize(&pod, connection));
        }
        let verdict = authorize(&pod, connection);
        let passes = in_kernel.as_ref().is_none_or(|rules| passes(rules, port, connection.source));
        if passes != verdict.allowed {
            return Err(format!(
                "{verdict:?}, but plaintext passes in the kernel: {passes} ({connection:?})"
            ));
        }
        let is_strict = pod.mtls.mode(port) == MtlsMode::Strict;
        Ok(if is_strict { Verdict::refused() } else { verdict })
    };
    asked.iter().map(verdict).collect()
}

/// The pod of a world, as the agent builds it from the pod's and the policies' text.
fn workload(world: &World) -> Result<Arc<Workload>, String> {
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
        last_good: None,
    };
    let mesh = snapshot::build(&objects, &settings, &Mesh::default()).map_err(errors)?;
    Ok(mesh.by_address[&world.pod.addresses[0]].clone())
}

fn authorize(pod: &Workload, connection: &Connection) -> Verdict {
    let identity = connection.identity.as_ref().map(|peer| {
        SpiffeId::new(&peer.trust_domain.parse().unwrap(), &peer.namespace, &peer.service_account)
    });
    let Connection { source, destination, .. } = *connection;
    let connection = decide::Connection { source, identity: identity.as_ref(), destination };
    let by = |matched: Matched<'_>| Some((matched.policy.name.to_string(), matched.rule));
    match decide::authorize(&pod.authorization, &connection) {
        decide::Verdict::Open => Verdict { allowed: true, by: None },
        decide::Verdict::Allowed(matched) => Verdict { allowed: true, by: by(matched) },
        decide::Verdict::Denied(matched) => Verdict { allowed: false, by: by(matched) },
        decide::Verdict::NotAllowed => Verdict { allowed: false, by: None },
    }
}

/// Looks a source up as the kernel does: the longest prefix decides.
fn passes(rules: &PlaintextRules, port: u16, source: IpAddr) -> bool {
    let of_port = rules.ports.get(&port).unwrap_or(&rules.default);
    let fitting = of_port.iter().filter(|(network, _)| network.contains(&source));
    *fitting.max_by_key(|(network, _)| network.prefix_len()).expect("a rule for every address").1
}
