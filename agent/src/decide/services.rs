//! The Services that the connect hook has to know.

use super::endpoints;
use crate::mesh::{Mesh, ServicePort};
use pillion_ebpf_common::quota;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// The Services of a node, as far as each Kubernetes namespace's share of the kernel's tables goes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct NodeServices {
    /// The candidates of each Service port, by cluster IP.
    pub endpoints: BTreeMap<SocketAddr, Vec<SocketAddr>>,
    /// How many ports of Services are left out, by namespace.
    pub beyond_share: BTreeMap<String, usize>,
}

/// What a namespace has of its share.
#[derive(Default)]
struct Used {
    services: usize,
    endpoints: usize,
    /// A port found no room: what comes after it is left out, too, and nobody looks for its candidates.
    is_up: bool,
}

/// The candidates of each Service port that has a captured pod of this node among them: those that may lead to a direct
/// connection. A worker chooses the endpoints of all others, and of those beyond their namespace's share.
pub fn services_of_node(mesh: &Mesh, node: &str) -> NodeServices {
    let is_here =
        |address: &IpAddr| mesh.by_address.get(address).is_some_and(|pod| pod.captured && pod.node == node);
    let mut found = NodeServices::default();
    let mut used: BTreeMap<&str, Used> = BTreeMap::new();
    // In one order, so that a namespace's share goes to the same Services each time.
    let services: BTreeMap<_, _> = mesh.services.iter().collect();
    for (ip, service) in services {
        // Asked once for each host, however many ports are served there.
        let are_here: Vec<bool> =
            service.slices.iter().map(|hosts| hosts.iter().any(|host| is_here(&host.address))).collect();
        let may_be_here = |port: &&ServicePort| {
            port.backends.iter().any(|backend| are_here.get(backend.slice).copied().unwrap_or(false))
        };
        for port in service.ports.iter().filter(may_be_here) {
            let used = used.entry(&service.namespace).or_default();
            if used.is_up {
                *found.beyond_share.entry(service.namespace.clone()).or_default() += 1;
                continue;
            }
            // Without any endpoint there is nothing to choose: the worker says so to the app.
            let Ok(candidates) = endpoints(mesh, service, port.port, ip.is_ipv6(), node) else { continue };
            if !candidates.iter().any(|endpoint| is_here(&endpoint.ip())) {
                continue;
            }
            let endpoints = used.endpoints + candidates.len();
            if used.services == quota::SERVICES || endpoints > quota::ENDPOINTS {
                used.is_up = true;
                *found.beyond_share.entry(service.namespace.clone()).or_default() += 1;
                continue;
            }
            (used.services, used.endpoints) = (used.services + 1, endpoints);
            found.endpoints.insert(SocketAddr::new(*ip, port.port), candidates);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Settings, parse, snapshot};

    #[test]
    fn services_with_a_captured_pod_on_the_node_are_known_with_all_their_endpoints() {
        let pod = |name: &str, node: &str, ip: &str, capture: &str| {
            format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{pillion.dev/capture: {capture}}}}}, \
                 spec: {{nodeName: {node}}}, status: {{podIP: {ip}}}}}\n"
            )
        };
        let service = |name: &str, ip: &str, endpoints: &[&str]| {
            let endpoints: Vec<String> =
                endpoints.iter().map(|ip| format!("{{addresses: [{ip}]}}")).collect();
            format!(
                "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
                 spec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}}}\n\
                 ---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{{port: 8080}}], \
                 metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}, \
                 endpoints: [{}]}}\n",
                endpoints.join(", ")
            )
        };
        let text = pod("here", "n1", "10.0.0.1", "enabled")
            + &pod("plain", "n1", "10.0.0.2", "disabled")
            + &pod("far", "n2", "10.0.0.3", "enabled")
            + &service("mixed", "10.96.0.1", &["10.0.0.1", "10.0.0.3"])
            + &service("outside", "10.96.0.2", &["10.0.0.2", "10.0.0.3"])
            + &service("empty", "10.96.0.3", &[]);
        let objects = parse("x.yaml", text.as_bytes()).unwrap();
        let mesh = snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap();
        let services = services_of_node(&mesh, "n1");
        let mixed: Vec<SocketAddr> = vec!["10.0.0.1:8080".parse().unwrap(), "10.0.0.3:8080".parse().unwrap()];
        assert_eq!(services.endpoints, [("10.96.0.1:80".parse().unwrap(), mixed)].into());
        assert_eq!(services.beyond_share, BTreeMap::new());
    }

    // proves: SEC-3
    #[test]
    fn a_namespace_that_uses_up_its_share_leaves_its_own_services_to_workers_and_nobody_elses() {
        let namespace = |namespace: &str, subnet: u8, ports: u16| {
            let metadata = |name: &str, labels: &str| {
                format!("metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}")
            };
            let pods: String = (1..=10)
                .map(|host| {
                    format!(
                        "---\n{{apiVersion: v1, kind: Pod, {}, spec: {{nodeName: n1}}, status: {{podIP: 10.0.{subnet}.{host}}}}}\n",
                        metadata(&format!("p{host}"), "pillion.dev/capture: enabled")
                    )
                })
                .collect();
            let named: Vec<String> =
                (1..=ports).map(|port| format!("{{name: p{port}, port: {port}}}")).collect();
            let endpoints: Vec<String> =
                (1..=10).map(|host| format!("{{addresses: [10.0.{subnet}.{host}]}}")).collect();
            format!(
                "{pods}---\n{{apiVersion: v1, kind: Service, {}, spec: {{clusterIP: 10.96.0.{subnet}, ports: [{ports}]}}}}\n\
                 ---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, {}, ports: [{ports}], \
                 endpoints: [{}]}}\n",
                metadata("web", ""),
                metadata("web-1", "kubernetes.io/service-name: web"),
                endpoints.join(", "),
                ports = named.join(", "),
            )
        };
        let text = namespace("greedy", 1, 900) + &namespace("neighbour", 2, 100);
        let objects = parse("x.yaml", text.as_bytes()).unwrap();
        let mesh = snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap();
        let services = services_of_node(&mesh, "n1");
        assert_eq!(services.beyond_share, [("greedy".to_owned(), 900 - quota::ENDPOINTS / 10)].into());
        let of = |subnet: u8| {
            let ip = std::net::IpAddr::from([10, 96, 0, subnet]);
            services.endpoints.keys().filter(|service| service.ip() == ip).count()
        };
        assert_eq!((of(1), of(2)), (quota::ENDPOINTS / 10, 100));
    }
}
