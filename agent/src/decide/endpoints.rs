//! Which endpoints of a Service may take a connection.

use super::Refusal;
use crate::mesh::{Endpoint, Locality, Mesh, Service};
use std::net::SocketAddr;

/// The endpoints that a client on `node` may be sent to: those of the wanted family that are the best there are.
///
/// A ready one is better than one that drains (as kube-proxy has it), and one whose pod stays better than one whose pod
/// terminates: that may be gone before the slices say so. Only then does a Service's preference for the client's own node
/// count.
///
/// # Errors
/// When there is none.
pub fn endpoints(
    mesh: &Mesh,
    service: &Service,
    port: u16,
    ipv6: bool,
    node: &str,
) -> Result<Vec<SocketAddr>, Refusal> {
    let name = || format!("{}/{}", service.namespace, service.name);
    if service.is_refused {
        return Err(Refusal::RefusedService { service: name() });
    }
    let Some(of_port) = service.endpoints(port) else {
        return Err(Refusal::NoServicePort { service: name(), port });
    };
    let is_here = |endpoint: &Endpoint<'_>| node_of(mesh, endpoint) == Some(node);
    let (only_here, rather_here) = match service.locality {
        Locality::Anywhere => (false, false),
        Locality::PreferSameNode => (false, true),
        Locality::OnlySameNode => (true, false),
    };
    let reachable = || of_port.iter().filter(|e| e.address.is_ipv6() == ipv6 && (!only_here || is_here(e)));
    let drawback = |e: &Endpoint<'_>| (e.draining, is_leaving(mesh, e), rather_here && !is_here(e));
    match reachable().map(drawback).min() {
        Some(least) => Ok(reachable().filter(|e| drawback(e) == least).map(|e| e.address).collect()),
        None if only_here => Err(Refusal::NoEndpointOnNode { service: name(), port, node: node.to_owned() }),
        None => Err(Refusal::NoEndpoint { service: name(), port }),
    }
}

fn is_leaving(mesh: &Mesh, endpoint: &Endpoint<'_>) -> bool {
    mesh.by_address.get(&endpoint.address.ip()).is_some_and(|pod| pod.terminating)
}

/// Where the slice does not say it, the pod does.
fn node_of<'a>(mesh: &'a Mesh, endpoint: &Endpoint<'a>) -> Option<&'a str> {
    let of_pod = || mesh.by_address.get(&endpoint.address.ip()).map(|pod| pod.node.as_str());
    endpoint.node.or_else(of_pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Settings, parse, snapshot};

    /// What a client on n1 may be sent to, as the last bytes of the addresses. Each endpoint is its last byte, its node
    /// (`-`: the slice does not say) and letters: `d` draining, `t` its pod terminates, `p` there is no such pod.
    fn candidates(policy: &str, wanted: &[(u8, &str, &str)]) -> Result<Vec<u8>, String> {
        let mut text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web}}, \
             spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}], {policy}}}}}\n"
        );
        for (byte, node, letters) in wanted {
            let (node, of_pod) = match node.strip_prefix('-') {
                Some(pods) => ("null", pods),
                None => (*node, "n9"),
            };
            let draining = letters.contains('d');
            text += &format!(
                "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
                 metadata: {{name: web-{byte}, labels: {{kubernetes.io/service-name: web}}}}, ports: [{{port: 80}}], \
                 endpoints: [{{addresses: [10.0.0.{byte}], nodeName: {node}, \
                 conditions: {{ready: {}, serving: true, terminating: {draining}}}}}]}}\n",
                !draining
            );
            if !letters.contains('p') {
                let deletion = if letters.contains('t') { "\"2026-01-01T00:00:00Z\"" } else { "null" };
                text += &format!(
                    "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: pod-{byte}, deletionTimestamp: {deletion}}}, \
                     spec: {{nodeName: {of_pod}}}, status: {{podIP: 10.0.0.{byte}}}}}\n"
                );
            }
        }
        let objects = parse("x.yaml", text.as_bytes()).unwrap();
        let mesh = snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap();
        let service = &mesh.services[&"10.96.0.1".parse().unwrap()];
        let found = endpoints(&mesh, service, 80, false, "n1").map_err(|refusal| refusal.to_string())?;
        let last_byte = |address: SocketAddr| address.ip().to_string().rsplit('.').next()?.parse().ok();
        Ok(found.into_iter().filter_map(last_byte).collect())
    }

    const ANYWHERE: &str = "trafficDistribution: PreferClose";
    const PREFER: &str = "trafficDistribution: PreferSameNode";
    const LOCAL: &str = "internalTrafficPolicy: Local";

    #[test]
    fn ready_comes_before_draining_and_staying_before_leaving() {
        let all = [(1, "n1", "d"), (2, "n2", "t"), (3, "n2", ""), (4, "n1", "p")];
        assert_eq!(candidates(ANYWHERE, &all), Ok(vec![3, 4]));
        assert_eq!(candidates(ANYWHERE, &all[..2]), Ok(vec![2]));
        assert_eq!(candidates(ANYWHERE, &all[..1]), Ok(vec![1]));
        assert_eq!(
            candidates(ANYWHERE, &[]),
            Err("service default/web has no ready endpoint for port 80".into())
        );
    }

    #[test]
    fn the_own_node_is_preferred_among_endpoints_that_are_as_good() {
        assert_eq!(candidates(PREFER, &[(1, "n1", ""), (2, "n2", ""), (3, "n1", "")]), Ok(vec![1, 3]));
        assert_eq!(candidates(PREFER, &[(1, "n3", ""), (2, "n2", "")]), Ok(vec![1, 2]));
        for worse in ["t", "d"] {
            assert_eq!(candidates(PREFER, &[(1, "n1", worse), (2, "n2", "")]), Ok(vec![2]), "{worse}");
        }
    }

    #[test]
    fn a_local_service_never_leaves_the_node() {
        assert_eq!(candidates(LOCAL, &[(1, "n1", ""), (2, "n2", "")]), Ok(vec![1]));
        // One that drains here is better than a ready one elsewhere.
        assert_eq!(candidates(LOCAL, &[(1, "n1", "d"), (2, "n2", "")]), Ok(vec![1]));
        assert_eq!(
            candidates(LOCAL, &[(2, "n2", "")]),
            Err("service default/web has no endpoint for port 80 on node n1, and its internalTrafficPolicy is Local".into())
        );
    }

    #[test]
    fn the_slices_word_on_the_node_comes_before_the_pods() {
        // The pod of a slice that names a node is on another one here.
        assert_eq!(candidates(LOCAL, &[(1, "n1", ""), (2, "-n1", ""), (3, "-n2", "")]), Ok(vec![1, 2]));
    }
}
