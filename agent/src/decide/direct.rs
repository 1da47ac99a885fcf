//! Which connections may stay in the kernel: plain TCP between pods of one node that the kernel vouches for.

use super::authorize::{Connection, authorize};
use super::not_direct::NotDirect;
use super::placement::{Placement, PodAddresses, Standing};
use super::ports::is_reserved;
use crate::mesh::Workload;
use clap::ValueEnum;
use std::net::{IpAddr, SocketAddr};

/// Of a pod that no snapshot of the node's pods has.
const UNPLACED: &str = "the pod is not among the captured pods of this node";

/// Whether this node has a direct path at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DirectMode {
    /// Wherever nothing stands against it.
    #[default]
    Auto,
    /// Nowhere: always mutual TLS.
    Off,
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
    if let Some(name) = &workload.network_policy {
        return Err(NotDirect::NetworkPolicy { name: name.clone() });
    }
    match &workload.bandwidth {
        Some(annotation) => Err(NotDirect::Bandwidth { annotation: annotation.clone() }),
        None => Ok(()),
    }
}

/// Leave for the connections of one pod to a port of another to be direct, under one generation of a [`Placement`].
///
/// It is evidence: [`direct`] alone makes one, and only after policies have allowed every pair of addresses by which the
/// kernel lets the one pod reach the other, of which there is at least one. The kernel side takes nothing less, and compares
/// the addresses with those that the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    generation: u64,
    source: PermittedPod,
    destination: PermittedPod,
    port: u16,
}

/// One end of what a [`Permit`] permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermittedPod {
    /// The cookie of its network namespace.
    pub netns: u64,
    /// The addresses that policies were asked about.
    pub addresses: PodAddresses,
}

impl Permit {
    /// That of the placement that it was made by.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn source(&self) -> PermittedPod {
        self.source
    }

    pub fn destination(&self) -> PermittedPod {
        self.destination
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Whether connections of one pod to a port of another may be direct, by all that is known of the two. Pods are named by
/// their netns cookies.
///
/// # Errors
/// What stands against it. A pod that is not placed, or a pair without addresses to ask policies about, is unknown: what
/// nobody knows allows nothing.
pub fn direct(placement: &Placement, source: u64, destination: u64, port: u16) -> Result<Permit, NotDirect> {
    let pod = |netns: u64| {
        let placed = placement.pod(netns).ok_or_else(|| NotDirect::Unknown { what: UNPLACED.to_owned() })?;
        match &placed.standing {
            Standing::Member(owned) => owned.clone().map(|()| &*placed.workload),
            Standing::Released => Err(NotDirect::NotCaptured),
        }
    };
    let (from, to) = (pod(source)?, pod(destination)?);
    let end = |netns, workload| PermittedPod { netns, addresses: PodAddresses::of(workload) };
    let (source, destination) = (end(source, from), end(destination, to));
    let pairs = source.addresses.pairs(destination.addresses).collect::<Vec<_>>();
    direct_by(from, to, port, &pairs)?;
    Ok(Permit { generation: placement.generation(), source, destination, port })
}

/// Whether one pod may reach a port of another directly by these pairs of addresses, as far as mesh and policies say.
///
/// # Errors
/// What stands against it; with no pair at all there is nothing that policies could have allowed.
pub fn direct_by(
    source: &Workload,
    destination: &Workload,
    port: u16,
    pairs: &[(IpAddr, IpAddr)],
) -> Result<(), NotDirect> {
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
    if pairs.is_empty() {
        let (source, destination) = (&source.name, &destination.name);
        let what = format!("no address of pod {source} is known that reaches one of pod {destination}");
        return Err(NotDirect::Unknown { what });
    }
    // The kernel's verdicts are about pods, not about their addresses: all that one may use have to be allowed.
    pairs.iter().try_for_each(|(from, to)| {
        let identity = Some(&source.identity);
        let connection = Connection { source: *from, identity, destination: SocketAddr::new(*to, port) };
        match authorize(&destination.authorization, &connection) {
            verdict if verdict.is_allowed() => Ok(()),
            verdict => Err(NotDirect::Denied { verdict: verdict.to_string() }),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Placed;
    use crate::manifest::{Settings, parse, snapshot};
    use crate::mesh::{Mesh, PodName};
    use std::collections::HashMap;
    use std::sync::Arc;

    /// `mute` has no address, `early` is placed at one that its object does not have, `four` and `six` have one each.
    const MANIFESTS: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {name: mute, labels: {pillion.dev/capture: enabled}}, spec: {nodeName: n1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: early, labels: {pillion.dev/capture: enabled}}, spec: {nodeName: n1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: four, labels: {pillion.dev/capture: enabled}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.14}}
---
{apiVersion: v1, kind: Pod, metadata: {name: six, labels: {pillion.dev/capture: enabled}}, spec: {nodeName: n1}, status: {podIP: "fd00::16"}}
---
{apiVersion: v1, kind: Pod, metadata: {name: slow, labels: {pillion.dev/capture: enabled}, annotations: {kubernetes.io/egress-bandwidth: 10M}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.15}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {pillion.dev/capture: enabled}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.10}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, labels: {pillion.dev/capture: enabled}, annotations: {pillion.dev/exclude-inbound-ports: "9090"}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.11}}
---
{apiVersion: v1, kind: Pod, metadata: {name: plain}, spec: {nodeName: n1}, status: {podIP: 10.0.0.12}}
---
{apiVersion: v1, kind: Pod, metadata: {name: far, labels: {pillion.dev/capture: enabled}}, spec: {nodeName: n2}, status: {podIP: 10.0.0.13}}
---
{apiVersion: v1, kind: Pod, metadata: {name: shy, labels: {pillion.dev/capture: enabled}, annotations: {pillion.dev/direct: disabled}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.17}}
---
{apiVersion: v1, kind: Pod, metadata: {name: fenced, labels: {pillion.dev/capture: enabled, app: fenced}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.18}}
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

    fn reason<T>(result: Result<T, NotDirect>) -> &'static str {
        result.err().map_or("direct", |not| not.reason())
    }

    const NAMES: [&str; 14] = [
        "mute", "early", "four", "six", "slow", "a", "b", "plain", "far", "shy", "fenced", "two", "guarded",
        "released",
    ];

    /// The cookie of the pod's network namespace.
    fn netns(name: &str) -> u64 {
        NAMES.iter().position(|other| *other == name).map_or(999, |place| place as u64)
    }

    /// All pods as the kernel may have them: `early` at an address that its object does not have, `released` let go.
    fn placement(mesh: &Mesh) -> Placement {
        let placed = NAMES.map(|name| {
            let mut workload = Workload::clone(pod(mesh, if name == "released" { "four" } else { name }));
            let mut standing = Standing::Member(Ok(()));
            match name {
                "early" => workload.addresses = vec![IpAddr::from([10, 0, 0, 19])],
                "released" => standing = Standing::Released,
                _ => {}
            }
            (netns(name), Placed { workload: Arc::new(workload), standing })
        });
        Placement::default().next(1, HashMap::from(placed))
    }

    // proves: SEC-3
    #[test]
    fn a_permit_says_which_addresses_policies_were_asked_about() {
        let mesh = mesh();
        let placement = placement(&mesh);
        let permit = direct(&placement, netns("two"), netns("guarded"), 80).unwrap();
        let end = |name, ipv4: [u8; 4], ipv6: &str| PermittedPod {
            netns: netns(name),
            addresses: PodAddresses { ipv4: Some(ipv4.into()), ipv6: Some(ipv6.parse().unwrap()) },
        };
        assert_eq!(permit.source(), end("two", [10, 0, 0, 1], "fd00::1"));
        assert_eq!(permit.destination(), end("guarded", [10, 0, 0, 2], "fd00::2"));
        assert_eq!((permit.port(), permit.generation()), (80, placement.generation()));
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
            // Without a pair of addresses there is nothing that policies have allowed.
            ("mute", "a", 80, "unknown"),
            ("a", "mute", 80, "unknown"),
            ("mute", "guarded", 81, "unknown"),
            ("four", "six", 80, "unknown"),
            ("four", "guarded", 80, "direct"),
            ("four", "guarded", 81, "denied"),
            ("six", "guarded", 82, "direct"),
            // Those that the kernel has count, not the object's.
            ("early", "a", 80, "direct"),
            ("early", "guarded", 81, "denied"),
            ("nobody", "a", 80, "unknown"),
            ("a", "nobody", 80, "unknown"),
            ("released", "a", 80, "not_captured"),
            ("slow", "a", 80, "bandwidth"),
            ("a", "slow", 80, "bandwidth"),
        ] {
            let found = reason(direct(&placement(&mesh), netns(source), netns(destination), port));
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
            ("slow", "bandwidth"),
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
