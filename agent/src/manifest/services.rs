//! What Service and EndpointSlice objects say of a service.

use super::error::Wrong;
use super::metadata::Key;
use super::names::is_subdomain;
use super::objects::{self, EndpointPort, EndpointSlice};
use super::{ManifestError, Place};
use crate::mesh::{Backend, Host, Locality, Service, ServicePort};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// The label by which an EndpointSlice belongs to a Service of its namespace.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// TCP ports of one Service, or of one of its slices. No Service that was met has a tenth of it.
const MOST_PORTS: usize = 1024;

/// Hosts of all slices of one Service. Kubernetes is tested with 5,000 nodes and 250 endpoints of a Service.
const MOST_HOSTS: usize = 16_384;

/// An EndpointSlice, and where it stands.
pub(super) type Slice<'a> = (&'a Place, &'a Arc<EndpointSlice>);

/// The slices of each Service, in the order of their names.
pub(super) fn slices_by_service<'a>(
    slices: &BTreeMap<Key<'a>, Slice<'a>>,
) -> BTreeMap<Key<'a>, Vec<Slice<'a>>> {
    let mut services: BTreeMap<Key<'a>, Vec<Slice<'a>>> = BTreeMap::new();
    for ((namespace, _), slice) in slices {
        if let Some(name) = slice.1.metadata.labels.get(SERVICE_NAME) {
            services.entry((namespace, name)).or_default().push(*slice);
        }
    }
    services
}

/// The Services of the last mesh, by the objects that they were made of: what has not changed is not compiled again.
#[derive(Default)]
pub struct CompiledServices {
    known: HashMap<(String, String), Known>,
    /// Counts the meshes; what the last one did not ask for is forgotten.
    turn: u64,
}

struct Known {
    object: Arc<objects::Service>,
    slices: Vec<Arc<EndpointSlice>>,
    made: Made,
    turn: u64,
}

/// What objects make: no Service where there is no cluster IP.
#[derive(Clone, Default)]
pub(super) struct Made {
    pub service: Option<Arc<Service>>,
    pub errors: Vec<ManifestError>,
}

impl CompiledServices {
    /// The Service that these objects describe, made anew only where one of them is another.
    pub(super) fn service(
        &mut self,
        place: &Place,
        object: &Arc<objects::Service>,
        slices: &[Slice<'_>],
    ) -> Made {
        let (namespace, name) = object.metadata.key();
        let key = (namespace.to_owned(), name.to_owned());
        let turn = self.turn;
        if let Some(known) = self.known.get_mut(&key) {
            let are_same = |(before, (_, now)): (&Arc<EndpointSlice>, &Slice<'_>)| Arc::ptr_eq(before, now);
            if Arc::ptr_eq(&known.object, object)
                && known.slices.len() == slices.len()
                && known.slices.iter().zip(slices).all(are_same)
            {
                known.turn = turn;
                return known.made.clone();
            }
        }
        let mut made = service(place, object, slices);
        let before = self.known.get(&key).and_then(|known| known.made.service.as_ref());
        if let Some(before) = before.filter(|before| made.service.as_ref() == Some(before)) {
            made.service = Some(before.clone());
        }
        let slices = slices.iter().map(|(_, slice)| (*slice).clone()).collect();
        self.known.insert(key, Known { object: object.clone(), slices, made: made.clone(), turn });
        made
    }

    /// Forgets the Services that have not been asked for since the last call.
    pub(super) fn end_turn(&mut self) {
        let turn = self.turn;
        self.known.retain(|_, known| known.turn == turn);
        self.turn += 1;
    }
}

/// Reads a Service and its slices. One that is wrong is refused as a whole: its cluster IPs stay known, and nobody connects there.
fn service(place: &Place, service: &objects::Service, slices: &[Slice<'_>]) -> Made {
    let (metadata, spec) = (&service.metadata, &service.spec);
    let mut wrong = Vec::new();
    let who = || format!("service {}/{}", metadata.namespace(), metadata.name);
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
                wrong.push(Wrong {
                    field: "spec.clusterIPs",
                    message: format!("{}: {ip:?} is no IP address", who()),
                });
            }
        }
    }
    let local = match spec.internal_traffic_policy.as_deref() {
        None | Some("" | "Cluster") => false,
        Some("Local") => true,
        Some(other) => {
            let message = format!("{}: {other:?} is neither Cluster nor Local", who());
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
    let has_cluster_ip = !cluster_ips.is_empty() && spec.kind.as_deref() != Some("ExternalName");
    let tcp_ports = || spec.ports.iter().filter(|port| is_tcp(port.protocol.as_deref()));
    if has_cluster_ip && tcp_ports().count() > MOST_PORTS {
        let message =
            format!("{}: it has {} TCP ports, and {MOST_PORTS} are the most", who(), tcp_ports().count());
        wrong.push(Wrong { field: "spec.ports", message });
    }
    let mut errors: Vec<_> = wrong.into_iter().map(|w| place.error(w.field, w.message)).collect();
    if !has_cluster_ip {
        return Made { service: None, errors };
    }
    let is_refused = !errors.is_empty();
    let mut made = Service {
        namespace: metadata.namespace().to_owned(),
        name: metadata.name.clone(),
        cluster_ips,
        locality,
        is_refused,
        ports: Vec::new(),
        slices: Vec::new(),
    };
    if !is_refused {
        let read = Slices::read(slices, &mut errors);
        let ports = tcp_ports().map(|port| {
            let name = port.name.clone().unwrap_or_default();
            let backends = read.backends.get(name.as_str()).cloned().unwrap_or_default();
            ServicePort { port: port.port.get(), name, backends }
        });
        made.ports = ports.collect();
        made.ports.sort_by_key(|port| port.port);
        made.ports.dedup_by_key(|port| port.port);
        made.slices = read.hosts;
    }
    Made { service: Some(Arc::new(made)), errors }
}

/// What the slices of one Service say.
#[derive(Default)]
struct Slices<'a> {
    hosts: Vec<Vec<Host>>,
    /// Which slices serve a port, by its name.
    backends: HashMap<&'a str, Vec<Backend>>,
}

impl<'a> Slices<'a> {
    /// A slice that is wrong, or beyond a limit, is left out, and told.
    fn read(slices: &[Slice<'a>], errors: &mut Vec<ManifestError>) -> Self {
        let mut read = Self::default();
        let mut hosts = 0;
        for (place, slice) in slices {
            let ipv6 = match slice.address_type.as_str() {
                "IPv4" => false,
                "IPv6" => true,
                // Names, which a cluster IP never leads to.
                "FQDN" => continue,
                other => {
                    let message = format!("{other:?} is neither IPv4, IPv6 nor FQDN");
                    errors.push(place.error("addressType", message));
                    continue;
                }
            };
            let tcp = |port: &&EndpointPort| is_tcp(port.protocol.as_deref());
            let ports = slice.ports.iter().filter(tcp).count();
            if ports > MOST_PORTS {
                let message = format!(
                    "it has {ports} TCP ports, and {MOST_PORTS} are the most: its endpoints are left out"
                );
                errors.push(place.error("ports", message));
                continue;
            }
            hosts += slice.endpoints.len();
            if hosts > MOST_HOSTS {
                let message = format!(
                    "its Service has more than {MOST_HOSTS} endpoints: those of this slice are left out"
                );
                errors.push(place.error("endpoints", message));
                continue;
            }
            for port in slice.ports.iter().filter(tcp) {
                let Some(number) = port.port else { continue };
                let backend = Backend { slice: read.hosts.len(), port: number.get() };
                let of_name = read.backends.entry(port.name.as_deref().unwrap_or_default()).or_default();
                if !of_name.contains(&backend) {
                    of_name.push(backend);
                }
            }
            read.hosts.push(read_hosts(place, slice, ipv6, errors));
        }
        read
    }
}

/// The hosts of a slice that may be led to, sorted by address.
fn read_hosts(
    place: &Place,
    slice: &EndpointSlice,
    ipv6: bool,
    errors: &mut Vec<ManifestError>,
) -> Vec<Host> {
    let mut hosts: BTreeMap<IpAddr, Host> = BTreeMap::new();
    let (mut first_wrong, mut wrong) = (None, 0);
    for (i, endpoint) in slice.endpoints.iter().enumerate() {
        // The API promises that an endpoint's addresses are interchangeable; kube-proxy takes the first.
        let Some(address) = endpoint.addresses.first() else { continue };
        let Some(ip) = address.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv6() == ipv6) else {
            wrong += 1;
            first_wrong.get_or_insert_with(|| {
                let message = format!("{address:?} is no {} address", slice.address_type);
                place.error(&format!("endpoints[{i}].addresses"), message)
            });
            continue;
        };
        let draining = !endpoint.conditions.is_ready();
        if draining && !endpoint.conditions.is_draining() {
            continue;
        }
        let address = ip.to_canonical();
        let known = hosts.entry(address).or_insert(Host { address, node: None, draining });
        known.draining &= draining;
        known.node = known.node.take().or_else(|| endpoint.node_name.clone());
    }
    // A slice has a thousand endpoints: one is named.
    errors.extend(first_wrong.map(|first| match wrong - 1 {
        0 => first,
        others => {
            ManifestError { message: format!("{}; so are those of {others} more", first.message), ..first }
        }
    }));
    hosts.into_values().collect()
}

fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Endpoint;
    use serde_json::{Value, json};

    /// What objects make. `slices` are in the order of their names.
    fn made(spec: Value, slices: &[Value]) -> Made {
        let object = json!({"metadata": {"name": "cart", "namespace": "shop"}, "spec": spec});
        let object = serde_json::from_value(object).unwrap();
        let slices: Vec<Arc<EndpointSlice>> =
            slices.iter().map(|slice| Arc::new(serde_json::from_value(slice.clone()).unwrap())).collect();
        let place = Place::file("x.yaml");
        let placed: Vec<_> = slices.iter().map(|slice| (&place, slice)).collect();
        service(&place, &object, &placed)
    }

    fn read(spec: Value, slices: &[Value]) -> Option<Arc<Service>> {
        let made = made(spec, slices);
        assert_eq!(made.errors, []);
        made.service
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
            let expected = Endpoint { address, node: Some("n1"), draining: false };
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
        let made = made(spec, &[]);
        assert_eq!(
            made.errors[0].to_string(),
            "x.yaml, spec.internalTrafficPolicy: service shop/cart: \"local\" is neither Cluster nor Local"
        );
        assert!(made.service.unwrap().is_refused);
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
        let slice = slice("IPv6", json!({"port": 80}), json!([{"addresses": ["10.0.0.1"]}]));
        let made = made(json!({"clusterIP": "10.96.0.1"}), &[slice]);
        assert_eq!(
            made.errors[0].to_string(),
            "x.yaml, endpoints[0].addresses: \"10.0.0.1\" is no IPv6 address"
        );
    }

    fn of_ports(count: usize) -> Value {
        (1..=count).map(|port| json!({"name": format!("p{port}"), "port": port})).collect()
    }

    #[test]
    fn ports_share_the_hosts_of_their_slices() {
        let hosts: Value = (0..100).map(|i| json!({"addresses": [format!("10.0.0.{i}")]})).collect();
        let mut slice = slice("IPv4", Value::Null, hosts);
        slice["ports"] = of_ports(MOST_PORTS);
        let service =
            read(json!({"clusterIP": "10.96.0.1", "ports": of_ports(MOST_PORTS)}), &[slice]).unwrap();
        assert_eq!(service.endpoints(MOST_PORTS as u16).unwrap().len(), 100);
        assert_eq!(service.slices.iter().flatten().count(), 100);
        assert_eq!(service.ports.iter().map(|port| port.backends.len()).sum::<usize>(), MOST_PORTS);
    }

    #[test]
    fn what_is_beyond_a_limit_is_refused_by_its_field_and_leads_nowhere() {
        let made_of = |ports: usize, slices: &[Value]| {
            let made = made(json!({"clusterIP": "10.96.0.1", "ports": of_ports(ports)}), slices);
            let errors: Vec<_> = made.errors.iter().map(ToString::to_string).collect();
            (made.service.unwrap(), errors)
        };
        let (service, errors) = made_of(MOST_PORTS + 1, &[]);
        assert!(service.is_refused && service.ports.is_empty());
        assert_eq!(
            errors,
            ["x.yaml, spec.ports: service shop/cart: it has 1025 TCP ports, and 1024 are the most"]
        );

        let mut many_ports = slice("IPv4", Value::Null, json!([{"addresses": ["10.0.0.1"]}]));
        many_ports["ports"] = of_ports(MOST_PORTS + 1);
        let (service, errors) = made_of(1, &[many_ports]);
        assert_eq!(service.endpoints(1), Some(vec![]));
        assert!(errors[0].starts_with("x.yaml, ports: it has 1025 TCP ports"), "{errors:?}");

        let port = json!({"name": "p1", "port": 80});
        let hosts: Value = (0..=MOST_HOSTS)
            .map(|i| json!({"addresses": [format!("10.0.{}.{}", i / 256, i % 256)]}))
            .collect();
        let one = slice("IPv4", port.clone(), json!([{"addresses": ["10.1.0.1"]}]));
        let (service, errors) = made_of(1, &[one, slice("IPv4", port, hosts)]);
        assert_eq!(addresses(&service, 1), ["10.1.0.1:80"]);
        assert!(errors[0].starts_with("x.yaml, endpoints: its Service has more than 16384"), "{errors:?}");
    }

    #[test]
    fn what_has_not_changed_is_not_compiled_again() {
        let object = json!({"metadata": {"name": "cart", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}});
        let object: Arc<objects::Service> = Arc::new(serde_json::from_value(object).unwrap());
        let slice = |address: &str| -> Arc<EndpointSlice> {
            let slice = slice("IPv4", json!({"port": 80}), json!([{"addresses": [address]}]));
            Arc::new(serde_json::from_value(slice).unwrap())
        };
        let (place, one, same, other) =
            (Place::file("x.yaml"), slice("10.0.0.1"), slice("10.0.0.1"), slice("10.0.0.2"));
        let mut compiled = CompiledServices::default();
        let mut service = |slice: &Arc<EndpointSlice>| {
            let made = compiled.service(&place, &object, &[(&place, slice)]).service.unwrap();
            compiled.end_turn();
            made
        };
        let first = service(&one);
        assert!(Arc::ptr_eq(&first, &service(&one)));
        assert!(Arc::ptr_eq(&first, &service(&same)));
        assert_eq!(addresses(&service(&other), 80), ["10.0.0.2:80"]);
        compiled.end_turn();
        assert!(compiled.known.is_empty());
    }
}
