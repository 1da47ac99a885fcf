//! What Service and EndpointSlice objects say of a service.

use super::error::Wrong;
use super::metadata::Key;
use super::names::is_subdomain;
use super::objects::{self, EndpointSlice};
use super::{ManifestError, Place};
use crate::mesh::{Endpoint, Locality, Service, ServicePort};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// The label by which an EndpointSlice belongs to a Service of its namespace.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A service's endpoints by port name, then by address.
pub(super) type Endpoints = BTreeMap<String, BTreeMap<SocketAddr, Endpoint>>;

/// Joins the slices of each service.
pub(super) fn endpoints<'a>(
    slices: &BTreeMap<Key<'a>, (&'a Place, &'a EndpointSlice)>,
    errors: &mut Vec<ManifestError>,
) -> BTreeMap<Key<'a>, Endpoints> {
    let mut services: BTreeMap<Key<'a>, Endpoints> = BTreeMap::new();
    for ((namespace, _), (place, slice)) in slices {
        let Some(name) = slice.metadata.labels.get(SERVICE_NAME) else { continue };
        let ipv6 = match slice.address_type.as_str() {
            "IPv4" => false,
            "IPv6" => true,
            // Names, which a cluster IP never leads to.
            "FQDN" => continue,
            other => {
                errors.push(place.error("addressType", format!("{other:?} is neither IPv4, IPv6 nor FQDN")));
                continue;
            }
        };
        let service = services.entry((namespace, name)).or_default();
        for (i, endpoint) in slice.endpoints.iter().enumerate() {
            // The API promises that an endpoint's addresses are interchangeable; kube-proxy takes the first.
            let Some(address) = endpoint.addresses.first() else { continue };
            let Some(ip) = address.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv6() == ipv6) else {
                let message = format!("{address:?} is no {} address", slice.address_type);
                errors.push(place.error(&format!("endpoints[{i}].addresses"), message));
                continue;
            };
            let draining = !endpoint.conditions.is_ready();
            if draining && !endpoint.conditions.is_draining() {
                continue;
            }
            for port in slice.ports.iter().filter(|port| is_tcp(port.protocol.as_deref())) {
                let Some(number) = port.port else { continue };
                let endpoints = service.entry(port.name.clone().unwrap_or_default()).or_default();
                let address = SocketAddr::new(ip.to_canonical(), number.get());
                // Two slices may have one endpoint, while it moves from one to the other.
                let known = endpoints.entry(address).or_insert(Endpoint { address, node: None, draining });
                known.draining &= draining;
                known.node = known.node.take().or_else(|| endpoint.node_name.clone());
            }
        }
    }
    services
}

/// Reads a service; `Ok(None)` for one without a cluster IP.
pub(super) fn service(
    service: &objects::Service,
    endpoints: &Endpoints,
) -> Result<Option<Service>, Vec<Wrong>> {
    let (metadata, spec) = (&service.metadata, &service.spec);
    let mut wrong = Vec::new();
    for (field, name) in [("metadata.namespace", metadata.namespace()), ("metadata.name", &metadata.name)] {
        if !is_subdomain(name) {
            let message = format!("{name:?} is no name: use lower-case letters, digits and dashes");
            wrong.push(Wrong { field, message });
        }
    }
    let mut cluster_ips = Vec::new();
    let one = spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_empty());
    for ip in spec.cluster_ips.iter().chain(one) {
        match ip.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if cluster_ips.contains(&ip) => {}
            Ok(ip) => cluster_ips.push(ip),
            Err(_) if ip.is_empty() || ip == "None" => {}
            Err(_) => {
                let message =
                    format!("service {}/{}: {ip:?} is no IP address", metadata.namespace(), metadata.name);
                wrong.push(Wrong { field: "spec.clusterIPs", message });
            }
        }
    }
    let local = match spec.internal_traffic_policy.as_deref() {
        None | Some("" | "Cluster") => false,
        Some("Local") => true,
        Some(other) => {
            let message = format!(
                "service {}/{}: {other:?} is neither Cluster nor Local",
                metadata.namespace(),
                metadata.name
            );
            wrong.push(Wrong { field: "spec.internalTrafficPolicy", message });
            false
        }
    };
    let locality = match spec.traffic_distribution.as_deref() {
        _ if local => Locality::OnlySameNode,
        Some("PreferSameNode") => Locality::PreferSameNode,
        // Of zones the mesh knows nothing; a preference that is not known is none (the API's own rule).
        _ => Locality::Anywhere,
    };
    if !wrong.is_empty() {
        return Err(wrong);
    }
    if cluster_ips.is_empty() || spec.kind.as_deref() == Some("ExternalName") {
        return Ok(None);
    }
    let ports = spec.ports.iter().filter(|port| is_tcp(port.protocol.as_deref())).map(|port| {
        let name = port.name.clone().unwrap_or_default();
        let endpoints = endpoints.get(&name).map(|of_port| of_port.values().cloned().collect());
        let endpoints = endpoints.unwrap_or_default();
        ServicePort { port: port.port.get(), name, endpoints }
    });
    Ok(Some(Service {
        namespace: metadata.namespace().to_owned(),
        name: metadata.name.clone(),
        cluster_ips,
        locality,
        ports: ports.collect(),
    }))
}

fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(spec: Value, slices: &[Value]) -> Option<Service> {
        let object = json!({"metadata": {"name": "cart", "namespace": "shop"}, "spec": spec});
        let object: objects::Service = serde_json::from_value(object).unwrap();
        let slices: Vec<EndpointSlice> =
            slices.iter().cloned().map(|s| serde_json::from_value(s).unwrap()).collect();
        let place = Place::file("x.yaml");
        let names: Vec<String> = (0..slices.len()).map(|i| i.to_string()).collect();
        let sorted =
            names.iter().zip(&slices).map(|(name, s)| (("shop", name.as_str()), (&place, s))).collect();
        let mut errors = Vec::new();
        let joined = endpoints(&sorted, &mut errors);
        assert_eq!(errors, []);
        service(&object, joined.get(&("shop", "cart")).unwrap_or(&Endpoints::default())).ok().unwrap()
    }

    fn slice(family: &str, port: Value, endpoints: Value) -> Value {
        json!({"metadata": {"name": "cart-1", "namespace": "shop", "labels": {SERVICE_NAME: "cart"}},
            "addressType": family, "ports": [port], "endpoints": endpoints})
    }

    fn addresses(service: &Service, port: u16) -> Vec<String> {
        service.endpoints(port).unwrap().iter().map(|e| e.address.to_string()).collect()
    }

    #[test]
    fn ports_are_matched_by_name() {
        let spec = json!({"clusterIP": "10.96.0.1", "ports": [
            {"name": "http", "port": 80}, {"name": "db", "port": 5432},
            {"name": "dns", "port": 53, "protocol": "UDP"}]});
        let http = slice(
            "IPv4",
            json!({"name": "http", "port": 8080}),
            json!([{"addresses": ["10.0.0.2", "10.0.0.9"]}]),
        );
        let more = slice(
            "IPv4",
            json!({"name": "http", "port": 8080}),
            json!([{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]),
        );
        let service = read(spec, &[http, more]).unwrap();
        assert_eq!(addresses(&service, 80), ["10.0.0.1:8080", "10.0.0.2:8080"]);
        assert!(addresses(&service, 5432).is_empty());
        assert!(service.endpoints(53).is_none());
    }

    #[test]
    fn a_port_without_a_name_is_matched_too() {
        let endpoints = json!([{"addresses": ["10.0.0.1"]}]);
        for name in [Value::Null, json!("")] {
            let slice =
                slice("IPv4", json!({"name": name, "port": 8080, "protocol": "TCP"}), endpoints.clone());
            let service =
                read(json!({"clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]}), &[slice]).unwrap();
            assert_eq!(addresses(&service, 80), ["10.0.0.1:8080"]);
        }
    }

    #[test]
    fn endpoints_are_ready_or_draining_or_left_out() {
        let conditions = |ready: bool, serving: bool, terminating: bool| json!({"ready": ready, "serving": serving, "terminating": terminating});
        let slice = slice(
            "IPv4",
            json!({"port": 80}),
            json!([
                {"addresses": ["10.0.0.1"], "conditions": conditions(true, true, false)},
                {"addresses": ["10.0.0.2"], "conditions": conditions(false, true, true)},
                {"addresses": ["10.0.0.3"], "conditions": conditions(false, false, true)},
                {"addresses": ["10.0.0.4"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.5"]},
            ]),
        );
        let service = read(json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}), &[slice]).unwrap();
        assert_eq!(addresses(&service, 80), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.5:80"]);
        let draining: Vec<bool> = service.endpoints(80).unwrap().iter().map(|e| e.draining).collect();
        assert_eq!(draining, [false, true, false]);
    }

    #[test]
    fn an_endpoint_of_two_slices_is_one() {
        let draining = json!({"ready": false, "serving": true, "terminating": true});
        let one = json!([{"addresses": ["10.0.0.1"], "conditions": draining}]);
        let other = json!([{"addresses": ["10.0.0.1"], "nodeName": "n1"}]);
        let slices = [one, other].map(|endpoints| slice("IPv4", json!({"port": 80}), endpoints));
        let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]});
        for slices in [[slices[0].clone(), slices[1].clone()], [slices[1].clone(), slices[0].clone()]] {
            let service = read(spec.clone(), &slices).unwrap();
            let address = "10.0.0.1:80".parse().unwrap();
            let expected = Endpoint { address, node: Some("n1".into()), draining: false };
            assert_eq!(service.endpoints(80).unwrap(), [expected]);
        }
    }

    #[test]
    fn both_families_have_their_endpoints() {
        let v4 = slice("IPv4", json!({"port": 80}), json!([{"addresses": ["10.0.0.1"]}]));
        let v6 = slice("IPv6", json!({"port": 80}), json!([{"addresses": ["fd00::1"]}]));
        let spec = json!({"clusterIPs": ["10.96.0.1", "fd00:96::1"], "ports": [{"port": 80}]});
        let service = read(spec, &[v4, v6]).unwrap();
        assert_eq!(service.cluster_ips.len(), 2);
        assert_eq!(addresses(&service, 80), ["10.0.0.1:80", "[fd00::1]:80"]);
    }

    #[test]
    fn a_service_says_which_nodes_its_clients_reach() {
        for (policy, distribution, expected) in [
            (Value::Null, Value::Null, Locality::Anywhere),
            (json!("Cluster"), json!("PreferClose"), Locality::Anywhere),
            (json!("Cluster"), json!("PreferSameNode"), Locality::PreferSameNode),
            (json!("Local"), Value::Null, Locality::OnlySameNode),
            (json!("Local"), json!("PreferSameNode"), Locality::OnlySameNode),
        ] {
            let spec = json!({"clusterIP": "10.96.0.1", "internalTrafficPolicy": policy, "trafficDistribution": distribution});
            assert_eq!(read(spec.clone(), &[]).unwrap().locality, expected, "{spec}");
        }
        let spec = json!({"clusterIP": "10.96.0.1", "internalTrafficPolicy": "local"});
        let object = json!({"metadata": {"name": "cart", "namespace": "shop"}, "spec": spec});
        let wrong = service(&serde_json::from_value(object).unwrap(), &Endpoints::default()).err().unwrap();
        assert_eq!(wrong[0].field, "spec.internalTrafficPolicy");
        assert_eq!(wrong[0].message, "service shop/cart: \"local\" is neither Cluster nor Local");
    }

    #[test]
    fn services_without_a_cluster_ip_are_not_kept() {
        for spec in [
            json!({"clusterIP": "None"}),
            json!({"clusterIPs": ["None"]}),
            json!({"type": "ExternalName", "externalName": "example.com"}),
            json!({}),
        ] {
            assert!(read(spec, &[]).is_none());
        }
    }

    #[test]
    fn an_address_of_another_family_is_an_error() {
        let slice: EndpointSlice =
            serde_json::from_value(slice("IPv6", json!({"port": 80}), json!([{"addresses": ["10.0.0.1"]}])))
                .unwrap();
        let mut errors = Vec::new();
        let place = Place::file("x.yaml");
        endpoints(&[(("shop", "s"), (&place, &slice))].into(), &mut errors);
        assert_eq!(errors[0].to_string(), "x.yaml, endpoints[0].addresses: \"10.0.0.1\" is no IPv6 address");
    }
}
