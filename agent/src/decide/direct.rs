//! Which connections may stay in the kernel: plain TCP between pods of one node that the kernel vouches for.

use super::authorize::{Connection, authorize};
use super::ports::is_reserved;
use crate::mesh::Workload;
use clap::ValueEnum;
use std::net::SocketAddr;

/// Whether this node has a direct path at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DirectMode {
    /// Wherever nothing stands against it.
    #[default]
    Auto,
    /// Nowhere: always mutual TLS.
    Off,
}

/// Why connections go by mutual TLS, though they might stay within the node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDirect {
    #[error("the direct path is switched off on this node (--direct off)")]
    MeshOff,
    #[error("the pod is not in the mesh")]
    NotCaptured,
    #[error("the pod says so (annotation pillion.dev/direct: disabled)")]
    PodDisabled,
    #[error("NetworkPolicy {name} selects the pod, and the direct path would go around what enforces it")]
    NetworkPolicy { name: String },
    #[error("the pods are on different nodes")]
    OtherNode,
    #[error("the pod reaches itself, which is none of the mesh's business")]
    SamePod,
    #[error("the port is the mesh's own")]
    ReservedPort,
    #[error("the pod keeps the port out of the mesh (annotation pillion.dev/exclude-inbound-ports)")]
    ExcludedPort,
    /// A worker says so to the client, in words.
    #[error("policies do not allow it: {verdict}")]
    Denied { verdict: String },
    #[error("the pod has no veth on the node that could be its path: {why}")]
    NoVeth { why: String },
    #[error("the pod's veth is in the hands of another datapath: {program} is attached to it")]
    ForeignProgram { program: String },
    #[error("the pod cannot be guarded: {why}")]
    NoGuard { why: String },
}

impl NotDirect {
    /// The reason as metrics give it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::MeshOff => "mesh_off",
            Self::NotCaptured => "not_captured",
            Self::PodDisabled => "pod_disabled",
            Self::NetworkPolicy { .. } => "network_policy",
            Self::OtherNode => "other_node",
            Self::SamePod => "same_pod",
            Self::ReservedPort => "reserved_port",
            Self::ExcludedPort => "excluded_port",
            Self::Denied { .. } => "denied",
            Self::NoVeth { .. } => "no_veth",
            Self::ForeignProgram { .. } => "foreign_program",
            Self::NoGuard { .. } => "no_guard",
        }
    }
}

/// Whether the kernel may own the pod's path, as far as the mesh says.
pub fn path(workload: &Workload, mode: DirectMode) -> Result<(), NotDirect> {
    if mode == DirectMode::Off {
        return Err(NotDirect::MeshOff);
    }
    if !workload.captured {
        return Err(NotDirect::NotCaptured);
    }
    if !workload.direct {
        return Err(NotDirect::PodDisabled);
    }
    match &workload.network_policy {
        Some(name) => Err(NotDirect::NetworkPolicy { name: name.clone() }),
        None => Ok(()),
    }
}

/// Whether connections of one pod to a port of another may be direct, as far as mesh and policies say.
pub fn direct(source: &Workload, destination: &Workload, port: u16) -> Result<(), NotDirect> {
    if source.node != destination.node {
        return Err(NotDirect::OtherNode);
    }
    if source.name == destination.name {
        return Err(NotDirect::SamePod);
    }
    path(source, DirectMode::Auto)?;
    path(destination, DirectMode::Auto)?;
    if is_reserved(port) {
        return Err(NotDirect::ReservedPort);
    }
    if destination.exclusions.inbound_ports.contains(&port) {
        return Err(NotDirect::ExcludedPort);
    }
    authorized(source, destination, port)
}

/// The kernel's verdicts are about pods, not about their addresses: all that one may use have to be allowed.
fn authorized(source: &Workload, destination: &Workload, port: u16) -> Result<(), NotDirect> {
    for ipv6 in [false, true] {
        let (Some(from), Some(to)) = (source.address(ipv6), destination.address(ipv6)) else { continue };
        let identity = Some(&source.identity);
        let connection = Connection { source: from, identity, destination: SocketAddr::new(to, port) };
        let verdict = authorize(&destination.authorization, &connection);
        if !verdict.is_allowed() {
            return Err(NotDirect::Denied { verdict: verdict.to_string() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Settings, parse, snapshot};
    use crate::mesh::{Mesh, PodName};

    const MANIFESTS: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {pillion.dev/capture: enabled}}, spec: {nodeName: n1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, labels: {pillion.dev/capture: enabled}, annotations: {pillion.dev/exclude-inbound-ports: "9090"}}, spec: {nodeName: n1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: plain}, spec: {nodeName: n1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: far, labels: {pillion.dev/capture: enabled}}, spec: {nodeName: n2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: shy, labels: {pillion.dev/capture: enabled}, annotations: {pillion.dev/direct: disabled}}, spec: {nodeName: n1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: fenced, labels: {pillion.dev/capture: enabled, app: fenced}}, spec: {nodeName: n1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: two, labels: {pillion.dev/capture: enabled, app: two}}, spec: {nodeName: n1}, status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: guarded, labels: {pillion.dev/capture: enabled, app: guarded}}, spec: {nodeName: n1}, status: {podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p}, spec: {selector: {matchLabels: {app: guarded}}, action: DENY, rules: [{to: [{operation: {ports: ["81"]}}]}, {to: [{operation: {ports: ["82"]}}], from: [{source: {ipBlocks: ["fd00::1"]}}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: fence}, spec: {podSelector: {matchLabels: {app: fenced}}}}
"#;

    fn mesh() -> Mesh {
        let objects = parse("x.yaml", MANIFESTS.as_bytes()).unwrap();
        snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap()
    }

    fn pod<'a>(mesh: &'a Mesh, name: &str) -> &'a Workload {
        &mesh.workloads[&PodName { namespace: "default".into(), name: name.into() }]
    }

    fn reason(result: Result<(), NotDirect>) -> &'static str {
        result.err().map_or("direct", |not| not.reason())
    }

    #[test]
    fn two_captured_pods_of_one_node_are_direct_unless_something_stands_against_it() {
        let mesh = mesh();
        for (source, destination, port, expected) in [
            ("a", "b", 80, "direct"),
            ("b", "a", 80, "direct"),
            ("a", "b", 9090, "excluded_port"),
            ("b", "a", 9090, "direct"),
            ("a", "b", 15008, "reserved_port"),
            ("a", "a", 80, "same_pod"),
            ("a", "far", 80, "other_node"),
            ("a", "plain", 80, "not_captured"),
            ("plain", "a", 80, "not_captured"),
            ("a", "shy", 80, "pod_disabled"),
            ("shy", "a", 80, "pod_disabled"),
            ("a", "fenced", 80, "network_policy"),
            ("fenced", "a", 80, "network_policy"),
            ("two", "guarded", 80, "direct"),
            ("two", "guarded", 81, "denied"),
            // One of their families of addresses is enough.
            ("two", "guarded", 82, "denied"),
            ("guarded", "two", 82, "direct"),
        ] {
            let found = reason(direct(pod(&mesh, source), pod(&mesh, destination), port));
            assert_eq!(found, expected, "{source} to {destination}:{port}");
        }
    }

    #[test]
    fn the_kernel_owns_a_pods_path_unless_mesh_or_pod_say_otherwise() {
        let mesh = mesh();
        assert_eq!(reason(path(pod(&mesh, "a"), DirectMode::Off)), "mesh_off");
        for (name, expected) in [
            ("a", "direct"),
            ("plain", "not_captured"),
            ("shy", "pod_disabled"),
            ("fenced", "network_policy"),
        ] {
            assert_eq!(reason(path(pod(&mesh, name), DirectMode::Auto)), expected, "{name}");
        }
    }

    #[test]
    fn the_network_policy_is_named() {
        let mesh = mesh();
        assert_eq!(
            path(pod(&mesh, "fenced"), DirectMode::Auto).unwrap_err().to_string(),
            "NetworkPolicy fence selects the pod, and the direct path would go around what enforces it"
        );
    }
}
