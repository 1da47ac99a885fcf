//! The Services that the connect hook has to know.

use super::endpoints;
use crate::mesh::Mesh;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The candidates of each Service port, by cluster IP, that has a captured pod of this node among them: those that may
/// lead to a direct connection. A worker chooses the endpoints of all others.
pub fn services_of_node(mesh: &Mesh, node: &str) -> BTreeMap<SocketAddr, Vec<SocketAddr>> {
    let is_here = |endpoint: &SocketAddr| {
        mesh.by_address.get(&endpoint.ip()).is_some_and(|pod| pod.captured && pod.node == node)
    };
    let mut found = BTreeMap::new();
    for (ip, service) in &mesh.services {
        for port in &service.ports {
            // Without any endpoint there is nothing to choose: the worker says so to the app.
            let Ok(candidates) = endpoints(mesh, service, port.port, ip.is_ipv6(), node) else { continue };
            if candidates.iter().any(is_here) {
                found.insert(SocketAddr::new(*ip, port.port), candidates);
            }
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
        assert_eq!(services, [("10.96.0.1:80".parse().unwrap(), mixed)].into());
    }
}
