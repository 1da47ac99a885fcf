//! Where a captured connection goes.

use super::endpoints::endpoints;
use super::ports::is_reserved;
use super::refusal::Refusal;
use crate::mesh::{Mesh, MtlsMode, Service, Workload};
use std::net::SocketAddr;
use std::sync::Arc;

/// What becomes of a connection that an app opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Outbound<'a> {
    /// Mutual TLS to the peer's worker. `target`, the pod's IP and port, is the authority asked for.
    Mesh { peer: &'a Arc<Workload>, target: SocketAddr, service: Option<&'a Arc<Service>> },
    /// Plain TCP, to what the app asked for or to the endpoint chosen for a Service.
    Passthrough { target: SocketAddr, peer: Option<&'a Arc<Workload>>, service: Option<&'a Arc<Service>> },
    /// There is nowhere to go.
    Refuse(Refusal),
}

/// Decides on a connection that `source` opened to `original`.
///
/// `chosen` is the endpoint that was chosen already where `original` is a Service's; it is kept as long as it is one of
/// those to choose from. Else `pick(n)` chooses one of `n ≥ 1`; what it answers is taken modulo `n`.
pub fn outbound<'a>(
    mesh: &'a Mesh,
    source: &Workload,
    original: SocketAddr,
    chosen: Option<SocketAddr>,
    pick: impl FnOnce(usize) -> usize,
) -> Outbound<'a> {
    let original = canonical(original);
    let service = mesh.services.get(&original.ip());
    let candidates = service.map(|s| endpoints(mesh, s, original.port(), original.is_ipv6(), &source.node));
    let target = match candidates {
        None => original,
        Some(Ok(candidates)) => match chosen.map(canonical).filter(|chosen| candidates.contains(chosen)) {
            Some(chosen) => chosen,
            None => candidates[pick(candidates.len()) % candidates.len()],
        },
        Some(Err(refusal)) => return Outbound::Refuse(refusal),
    };
    // A Service's own address is no endpoint: whoever leads connections there by themselves would have them go plain.
    if service.is_some() && mesh.services.contains_key(&target.ip()) {
        return Outbound::Refuse(Refusal::EndpointIsService { target });
    }
    let peer = mesh.owner(target.ip());
    let Some(captured) = peer.filter(|peer| peer.captured) else {
        return Outbound::Passthrough { target, peer, service };
    };
    if is_reserved(target.port()) {
        return Outbound::Refuse(Refusal::ReservedPort { pod: captured.name.to_string(), target });
    }
    // A pod that reaches itself by its Service (hairpin) stays within its own netns: nothing to protect there.
    let is_out = captured.exclusions.inbound_ports.contains(&target.port())
        || captured.mtls.mode(target.port()) == MtlsMode::Disable;
    // Of an address that several claim, nobody knows whose exceptions count.
    if captured.name == source.name || (is_out && !mesh.disputed.contains(&target.ip())) {
        return Outbound::Passthrough { target, peer, service };
    }
    Outbound::Mesh { peer: captured, target, service }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{CompiledServices, Settings, parse, snapshot};
    use crate::mesh::PodName;

    const MANIFESTS: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {name: client, labels: {pillion.dev/capture: enabled}}, status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: server, labels: {app: server, pillion.dev/capture: enabled}, annotations: {pillion.dev/exclude-inbound-ports: "9090"}}, status: {podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: leaving, deletionTimestamp: "2026-01-01T00:00:00Z", labels: {pillion.dev/capture: enabled}}, status: {podIP: 10.0.0.3}}
---
{apiVersion: v1, kind: Pod, metadata: {name: plain}, status: {podIP: 10.0.0.4}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: legacy}, spec: {selector: {matchLabels: {app: server}}, portLevelMtls: {"7070": {mode: DISABLE}, "7071": {mode: STRICT}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIPs: [10.96.0.1, "fd00:96::1"], ports: [{name: a, port: 80}, {name: b, port: 81}, {name: c, port: 82}, {name: d, port: 83}, {name: e, port: 84}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, endpoints: [{addresses: [10.0.0.2]}, {addresses: [10.0.0.3]}, {addresses: [10.0.0.4]}], ports: [{name: a, port: 8080}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-2, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, endpoints: [{addresses: [10.0.0.3]}], ports: [{name: b, port: 8080}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-3, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}], ports: [{name: d, port: 8080}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-4, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, endpoints: [{addresses: [10.0.0.2]}], ports: [{name: e, port: 15008}]}
---
{apiVersion: v1, kind: Service, metadata: {name: chained}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: chained-1, labels: {kubernetes.io/service-name: chained}}, addressType: IPv4, endpoints: [{addresses: [10.96.0.1]}], ports: [{port: 80}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-5, labels: {kubernetes.io/service-name: web}}, addressType: IPv6, endpoints: [{addresses: ["fd00::2"]}], ports: [{name: a, port: 8080}]}
"#;

    /// What is decided on a connection of the pod `client`, in short, when the `pick`th endpoint is chosen.
    fn decide(original: &str, pick: usize) -> String {
        decide_as_chosen(original, None, pick)
    }

    fn decide_as_chosen(original: &str, chosen: Option<&str>, pick: usize) -> String {
        let chosen = chosen.map(|address| address.parse().unwrap());
        let objects = parse("x.yaml", MANIFESTS.as_bytes()).unwrap();
        let mesh = snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap();
        let client = &mesh.workloads[&PodName { namespace: "default".into(), name: "client".into() }];
        let service = |s: Option<&Arc<Service>>| s.map(|s| format!(" of {}", s.name)).unwrap_or_default();
        match outbound(&mesh, client, original.parse().unwrap(), chosen, |_| pick) {
            Outbound::Mesh { peer, target, service: s } => {
                format!("mesh {} {target}{}", peer.name.name, service(s))
            }
            Outbound::Passthrough { target, peer, service: s } => {
                let peer = peer.map(|peer| format!("{} ", peer.name.name)).unwrap_or_default();
                format!("plain {peer}{target}{}", service(s))
            }
            Outbound::Refuse(refusal) => format!("{} {refusal}", refusal.response_flags()),
        }
    }

    #[test]
    fn captured_pods_are_reached_through_the_mesh_and_others_as_asked() {
        assert_eq!(decide("10.0.0.2:80", 0), "mesh server 10.0.0.2:80");
        assert_eq!(decide("[::ffff:10.0.0.2]:80", 0), "mesh server 10.0.0.2:80");
        assert_eq!(decide("[fd00::2]:80", 0), "mesh server [fd00::2]:80");
        assert_eq!(decide("10.0.0.4:80", 0), "plain plain 10.0.0.4:80");
        assert_eq!(decide("192.0.2.1:443", 0), "plain 192.0.2.1:443");
    }

    #[test]
    fn a_terminating_pod_stays_reachable_by_its_address() {
        assert_eq!(decide("10.0.0.3:80", 0), "mesh leaving 10.0.0.3:80");
    }

    #[test]
    fn excluded_inbound_ports_are_reached_plainly() {
        assert_eq!(decide("10.0.0.2:9090", 0), "plain server 10.0.0.2:9090");
    }

    #[test]
    fn ports_without_mutual_tls_are_reached_plainly() {
        assert_eq!(decide("10.0.0.2:7070", 0), "plain server 10.0.0.2:7070");
        assert_eq!(decide("10.0.0.2:7071", 0), "mesh server 10.0.0.2:7071");
    }

    #[test]
    fn what_was_chosen_already_is_kept_while_it_is_there_to_be_chosen() {
        let decide = |original, chosen| decide_as_chosen(original, Some(chosen), 0);
        assert_eq!(decide("10.96.0.1:80", "10.0.0.4:8080"), "plain plain 10.0.0.4:8080 of web");
        assert_eq!(decide("10.96.0.1:80", "[::ffff:10.0.0.4]:8080"), "plain plain 10.0.0.4:8080 of web");
        for gone in ["10.0.0.3:8080", "10.0.0.4:80", "10.0.0.9:8080"] {
            assert_eq!(decide("10.96.0.1:80", gone), "mesh server 10.0.0.2:8080 of web", "{gone}");
        }
        assert_eq!(decide("10.0.0.2:80", "10.0.0.4:8080"), "mesh server 10.0.0.2:80");
    }

    #[test]
    fn a_cluster_ip_leads_to_an_endpoint_that_stays() {
        assert_eq!(decide("10.96.0.1:80", 0), "mesh server 10.0.0.2:8080 of web");
        assert_eq!(decide("10.96.0.1:80", 1), "plain plain 10.0.0.4:8080 of web");
        assert_eq!(decide("10.96.0.1:80", 2), "mesh server 10.0.0.2:8080 of web");
        assert_eq!(decide("10.96.0.1:81", 0), "mesh leaving 10.0.0.3:8080 of web");
    }

    #[test]
    fn a_cluster_ip_leads_to_its_own_family() {
        for pick in 0..3 {
            assert_eq!(decide("[fd00:96::1]:80", pick), "mesh server [fd00::2]:8080 of web");
        }
        assert_eq!(decide("[fd00:96::1]:81", 0), "UH service default/web has no ready endpoint for port 81");
    }

    #[test]
    fn a_service_without_endpoint_or_port_refuses() {
        assert_eq!(decide("10.96.0.1:82", 0), "UH service default/web has no ready endpoint for port 82");
        assert_eq!(decide("10.96.0.1:443", 0), "NR service default/web has no TCP port 443");
    }

    // proves: SEC-3
    #[test]
    fn an_endpoint_that_is_a_services_own_address_leads_nowhere() {
        let refused = "NR the endpoint 10.96.0.1:80 is a Service's own address, and no pod's";
        assert_eq!(decide("10.96.0.2:80", 0), refused);
    }

    #[test]
    fn a_pod_reaches_itself_plainly() {
        assert_eq!(decide("10.96.0.1:83", 0), "plain client 10.0.0.1:8080 of web");
    }

    #[test]
    fn nobody_tunnels_into_a_worker() {
        for port in [15001, 15006, 15008] {
            let refused = format!("NR port {port} of pod default/server is the mesh's own");
            assert_eq!(decide(&format!("10.0.0.2:{port}"), 0), refused);
            assert_eq!(decide(&format!("10.0.0.4:{port}"), 0), format!("plain plain 10.0.0.4:{port}"));
        }
        assert_eq!(decide("10.96.0.1:84", 0), "NR port 15008 of pod default/server is the mesh's own");
        assert_eq!(decide("10.0.0.1:15001", 0), "NR port 15001 of pod default/client is the mesh's own");
    }

    // proves: SEC-3
    #[test]
    fn nothing_goes_plain_to_an_address_that_is_disputed() {
        let objects = parse("x.yaml", MANIFESTS.as_bytes()).unwrap();
        let mut mesh = snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap();
        let client = mesh.workloads[&PodName { namespace: "default".into(), name: "client".into() }].clone();
        for port in [9090, 7070] {
            let target = SocketAddr::new("10.0.0.2".parse().unwrap(), port);
            let is_plain = |mesh: &Mesh| {
                matches!(outbound(mesh, &client, target, None, |_| 0), Outbound::Passthrough { .. })
            };
            mesh.disputed.clear();
            assert!(is_plain(&mesh));
            mesh.disputed.insert(target.ip());
            assert!(!is_plain(&mesh));
        }
    }

    // proves: SEC-3
    #[test]
    fn nobody_connects_in_plain_to_a_service_that_is_refused() {
        let ports: Vec<_> = (1..=1025).map(|port| format!("{{name: p{port}, port: {port}}}")).collect();
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: client, labels: {{pillion.dev/capture: enabled}}}}}}\n---\n\
             {{apiVersion: v1, kind: Service, metadata: {{name: wide}}, spec: {{clusterIP: 10.96.0.1, ports: [{}]}}}}\n",
            ports.join(", ")
        );
        let objects = parse("x.yaml", text.as_bytes()).unwrap();
        let (mesh, errors) = snapshot::build_apart(
            &objects,
            &Settings::default(),
            &Mesh::default(),
            &mut CompiledServices::default(),
        );
        assert_eq!(errors[0].field.as_deref(), Some("spec.ports"));
        let client = &mesh.workloads[&PodName { namespace: "default".into(), name: "client".into() }];
        let decision = outbound(&mesh, client, "10.96.0.1:80".parse().unwrap(), None, |_| 0);
        let Outbound::Refuse(refusal) = decision else { panic!("it is not refused") };
        assert!(refusal.to_string().starts_with("service default/wide is refused"), "{refusal}");
    }
}
