//! Builds a mesh from objects. Pure: the same objects give an equal mesh.

use super::authorization::AuthorizationPolicy;
use super::metadata::Key;
use super::objects::{EndpointSlice, Namespace, NetworkPolicy, Object, Pod, Service};
use super::peer_authentication::PeerAuthentication;
use super::policies::Policies;
use super::{ManifestError, Place, Sourced, services, workloads};
use crate::mesh::{Mesh, TrustDomains};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// What a mesh is built by, besides its objects.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node that this agent serves.
    pub node: String,
    pub trust_domains: TrustDomains,
    /// The namespace whose policies are the whole mesh's.
    pub root_namespace: String,
}

#[cfg(test)]
impl Default for Settings {
    fn default() -> Self {
        Self {
            node: "n1".into(),
            trust_domains: TrustDomains::default(),
            root_namespace: super::ROOT_NAMESPACE.into(),
        }
    }
}

/// Builds the mesh that the objects describe, as the next generation after `previous`.
///
/// # Errors
/// Everything that is wrong with the objects; there is no mesh made of the rest, because a pod left out would
/// be a pod outside the mesh that nobody sees.
pub fn build<'a>(
    objects: impl IntoIterator<Item = &'a Sourced>,
    settings: &Settings,
    previous: &Mesh,
) -> Result<Mesh, Vec<ManifestError>> {
    let mut errors = Vec::new();
    let objects = Objects::sort(objects, &mut errors);
    let mut mesh = Mesh { generation: previous.generation + 1, ..Mesh::default() };
    let mut owners = Owners::default();

    let policies = Policies::new(
        &settings.root_namespace,
        &settings.trust_domains,
        objects.peer_authentications.values().map(|(_, policy)| *policy),
        objects.authorization_policies.values().map(|(_, policy)| *policy),
        objects.network_policies.values().map(|(_, policy)| *policy),
    );
    let of_pods = objects.authorization_policies.values().filter(|(_, policy)| !policy.has_target);
    mesh.policies = of_pods.map(|(_, object)| (object.policy.name.clone(), object.policy.clone())).collect();

    let captured = objects.namespaces.values().filter(|(_, namespace)| workloads::captures(namespace));
    mesh.captured_namespaces = captured.map(|(_, namespace)| namespace.metadata.name.clone()).collect();

    for (key, (place, pod)) in &objects.pods {
        let namespace = objects.namespaces.get(&("", key.0)).map(|(_, namespace)| *namespace);
        match workloads::workload(pod, namespace, settings.trust_domains.own(), &policies) {
            Ok(workload) => {
                let workload = Arc::new(workload);
                for address in &workload.addresses {
                    owners.claim(
                        *address,
                        format!("pod {}", workload.name),
                        place,
                        "status.podIPs",
                        &mut errors,
                    );
                    mesh.by_address.insert(*address, workload.clone());
                }
                mesh.workloads.insert(workload.name.clone(), workload);
            }
            Err(wrong) => errors.extend(wrong.into_iter().map(|w| place.error(w.field, w.message))),
        }
    }

    let endpoints = services::endpoints(&objects.slices, &mut errors);
    for (key, (place, service)) in &objects.services {
        match services::service(service, endpoints.get(key).unwrap_or(&services::Endpoints::default())) {
            Ok(None) => {}
            Ok(Some(service)) => {
                let service = Arc::new(service);
                for ip in &service.cluster_ips {
                    let name = format!("service {}/{}", service.namespace, service.name);
                    owners.claim(*ip, name, place, "spec.clusterIPs", &mut errors);
                    mesh.services.insert(*ip, service.clone());
                }
            }
            Err(wrong) => errors.extend(wrong.into_iter().map(|w| place.error(w.field, w.message))),
        }
    }
    mesh.policy = policy_generation(previous, &mesh, &settings.node);
    if errors.is_empty() { Ok(mesh) } else { Err(errors) }
}

/// Verdicts stay good as long as the node's captured pods, and what policies say of them, are what they were.
fn policy_generation(previous: &Mesh, next: &Mesh, node: &str) -> u64 {
    let captured = |mesh: &Mesh| -> BTreeMap<_, _> {
        mesh.captured_on(node).map(|workload| (workload.name.clone(), workload.clone())).collect()
    };
    if captured(previous) == captured(next) { previous.policy } else { next.generation }
}

/// Whether two snapshots say the same, whatever their generations.
pub fn same(a: &Mesh, b: &Mesh) -> bool {
    a.workloads == b.workloads
        && a.by_address == b.by_address
        && a.services == b.services
        && a.policies == b.policies
        && a.captured_namespaces == b.captured_namespaces
}

/// The objects by kind and name. Ordered, so that errors come in the same order every time.
#[derive(Default)]
struct Objects<'a> {
    namespaces: BTreeMap<Key<'a>, (&'a Place, &'a Namespace)>,
    pods: BTreeMap<Key<'a>, (&'a Place, &'a Pod)>,
    services: BTreeMap<Key<'a>, (&'a Place, &'a Service)>,
    slices: BTreeMap<Key<'a>, (&'a Place, &'a EndpointSlice)>,
    peer_authentications: BTreeMap<Key<'a>, (&'a Place, &'a PeerAuthentication)>,
    authorization_policies: BTreeMap<Key<'a>, (&'a Place, &'a AuthorizationPolicy)>,
    network_policies: BTreeMap<Key<'a>, (&'a Place, &'a NetworkPolicy)>,
}

impl<'a> Objects<'a> {
    fn sort(objects: impl IntoIterator<Item = &'a Sourced>, errors: &mut Vec<ManifestError>) -> Self {
        let mut sorted = Self::default();
        for Sourced { place, object } in objects {
            match object {
                Object::Namespace(o) => {
                    // A Namespace is in no namespace, whatever its manifest says.
                    let key = ("", o.metadata.name.as_str());
                    put(&mut sorted.namespaces, "namespace", key, place, o, errors);
                }
                Object::Pod(o) => put(&mut sorted.pods, "pod", o.metadata.key(), place, o, errors),
                Object::Service(o) => {
                    put(&mut sorted.services, "service", o.metadata.key(), place, o, errors)
                }
                Object::EndpointSlice(o) => {
                    put(&mut sorted.slices, "endpoint slice", o.metadata.key(), place, o, errors);
                }
                Object::PeerAuthentication(o) => {
                    let policies = &mut sorted.peer_authentications;
                    put(policies, "peer authentication", o.metadata.key(), place, &**o, errors);
                }
                Object::AuthorizationPolicy(o) => {
                    let policies = &mut sorted.authorization_policies;
                    put(policies, "authorization policy", o.metadata.key(), place, &**o, errors);
                }
                Object::RefusedPolicy(o) => errors.push(place.error(&o.field, o.message.clone())),
                Object::NetworkPolicy(o) => {
                    put(&mut sorted.network_policies, "network policy", o.metadata.key(), place, o, errors);
                }
            }
        }
        sorted
    }
}

fn put<'a, T>(
    objects: &mut BTreeMap<Key<'a>, (&'a Place, &'a T)>,
    kind: &str,
    key: Key<'a>,
    place: &'a Place,
    object: &'a T,
    errors: &mut Vec<ManifestError>,
) {
    if let Some((first, _)) = objects.get(&key) {
        let name = if key.0.is_empty() { key.1.to_owned() } else { format!("{}/{}", key.0, key.1) };
        errors.push(place.error("metadata.name", format!("{kind} {name} is already defined in {first}")));
    } else {
        objects.insert(key, (place, object));
    }
}

/// Who has which address: one address has one owner.
#[derive(Default)]
struct Owners<'a>(HashMap<IpAddr, (String, &'a Place)>);

impl<'a> Owners<'a> {
    fn claim(
        &mut self,
        address: IpAddr,
        name: String,
        place: &'a Place,
        field: &str,
        errors: &mut Vec<ManifestError>,
    ) {
        if let Some((owner, other)) = self.0.get(&address) {
            let message = format!("{name} and {owner} ({other}) both have the address {address}");
            errors.push(place.error(field, message));
        } else {
            self.0.insert(address, (name, place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::parse;
    use crate::mesh::{MtlsMode, PodName};

    fn mesh(manifests: &str) -> Result<Mesh, String> {
        let objects = parse("x.yaml", manifests.as_bytes()).unwrap();
        build(&objects, &Settings::default(), &Mesh::default())
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    fn pod(name: &str, ip: &str, more: &str) -> String {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}}, \
             status: {{podIPs: [{{ip: '{ip}'}}]}}{more}}}\n"
        )
    }

    fn service(name: &str, ip: &str) -> String {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, \
             spec: {{clusterIP: '{ip}', ports: [{{port: 80}}]}}}}\n"
        )
    }

    #[test]
    fn pods_are_found_by_name_and_by_address() {
        let mesh = mesh(&(pod("a", "10.0.0.1", "") + &pod("b", "::ffff:10.0.0.2", ""))).unwrap();
        let name = PodName { namespace: "shop".into(), name: "b".into() };
        assert!(Arc::ptr_eq(&mesh.workloads[&name], &mesh.by_address[&"10.0.0.2".parse().unwrap()]));
    }

    #[test]
    fn two_pods_with_one_address_are_an_error_naming_both() {
        assert_eq!(
            mesh(&(pod("a", "10.0.0.1", "") + &pod("b", "10.0.0.1", ""))).unwrap_err(),
            "x.yaml, document 2, status.podIPs: pod shop/b and pod shop/a (x.yaml, document 1) both have the \
             address 10.0.0.1"
        );
    }

    #[test]
    fn an_address_may_be_had_again_once_its_pod_is_done() {
        let done = |phase| {
            let done = format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: job}}, \
                 status: {{phase: {phase}, podIP: 10.0.0.1}}}}\n"
            );
            mesh(&(pod("a", "10.0.0.1", "") + &done))
        };
        for phase in ["Succeeded", "Failed"] {
            let mesh = done(phase).unwrap();
            assert_eq!(mesh.by_address[&"10.0.0.1".parse().unwrap()].name.name, "a");
            assert_eq!(mesh.workloads.len(), 2);
        }
        assert!(done("Running").is_err());
    }

    #[test]
    fn host_network_pods_share_their_nodes_address() {
        let host = |name| pod(name, "10.0.0.1", ", spec: {hostNetwork: true}");
        let mesh = mesh(&(host("a") + &host("b"))).unwrap();
        assert!(mesh.by_address.is_empty());
    }

    #[test]
    fn two_services_with_one_cluster_ip_are_an_error_naming_both() {
        let error = mesh(&(service("a", "10.96.0.1") + &service("b", "10.96.0.1"))).unwrap_err();
        assert!(error.contains("service shop/b and service shop/a (x.yaml, document 1)"), "{error}");
        let error = mesh(&(service("a", "10.96.0.1") + &pod("b", "10.96.0.1", ""))).unwrap_err();
        assert!(error.contains("service shop/a and pod shop/b"), "{error}");
    }

    #[test]
    fn an_object_defined_twice_is_an_error_naming_both_places() {
        let mut objects = parse("one.yaml", pod("a", "10.0.0.1", "").as_bytes()).unwrap();
        objects.extend(parse("two.yaml", pod("a", "10.0.0.2", "").as_bytes()).unwrap());
        let errors = build(&objects, &Settings::default(), &Mesh::default()).unwrap_err();
        assert_eq!(
            errors[0].to_string(),
            "two.yaml, document 1, metadata.name: pod shop/a is already defined in one.yaml, document 1"
        );
    }

    #[test]
    fn a_namespaces_label_captures_its_pods() {
        let namespace = "---\n{apiVersion: v1, kind: Namespace, \
                         metadata: {name: shop, labels: {pillion.dev/capture: enabled}}}\n";
        let mesh = mesh(&(pod("a", "10.0.0.1", "") + namespace)).unwrap();
        assert!(mesh.by_address[&"10.0.0.1".parse().unwrap()].captured);
    }

    // proves: ID-3
    #[test]
    fn policies_say_what_a_pod_accepts() {
        let policies = "---\n{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
                        metadata: {name: default, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}\n\
                        ---\n{apiVersion: security.istio.io/v1beta1, kind: PeerAuthentication, \
                        metadata: {name: cart, namespace: shop}, \
                        spec: {selector: {matchLabels: {app: cart}}, portLevelMtls: {8080: {mode: PERMISSIVE}}}}\n\
                        ---\n{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
                        metadata: {name: fence, namespace: shop}, spec: {podSelector: {matchLabels: {app: cart}}}}\n\
                        ---\n{apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop, labels: {app: cart}}, \
                        status: {podIP: 10.0.0.2}}\n";
        let mesh = mesh(&(pod("a", "10.0.0.1", "") + policies)).unwrap();
        let at = |address: &str| &mesh.by_address[&address.parse().unwrap()];
        assert_eq!(at("10.0.0.1").mtls.mode(8080), MtlsMode::Strict);
        assert_eq!(at("10.0.0.2").mtls.mode(8080), MtlsMode::Permissive);
        assert_eq!(at("10.0.0.2").mtls.mode(80), MtlsMode::Strict);
        assert_eq!(at("10.0.0.1").network_policy, None);
        assert_eq!(at("10.0.0.2").network_policy.as_deref(), Some("fence"));
    }

    #[test]
    fn a_broken_policy_is_named_with_file_document_and_field() {
        let policy = |spec: &str| {
            let text = format!(
                "{}---\n{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: p}}, \
                 spec: {spec}}}\n",
                pod("a", "10.0.0.1", "")
            );
            match parse("x.yaml", text.as_bytes()) {
                Ok(objects) => build(&objects, &Settings::default(), &Mesh::default()).unwrap_err(),
                Err(errors) => errors,
            }
        };
        for (spec, expected) in [
            (
                "{mtls: {mode: strict}}",
                "x.yaml, document 2, spec.mtls.mode: unknown variant `strict`, expected one of",
            ),
            (
                "{mtls: {mod: STRICT}}",
                "x.yaml, document 2, spec.mtls.mod: unknown field `mod`, expected `mode`",
            ),
            (
                "{mtsl: {mode: STRICT}}",
                "x.yaml, document 2, spec.mtsl: unknown field `mtsl`, expected one of",
            ),
            ("{selector: {app: cart}}", "x.yaml, document 2, spec.selector.app: unknown field `app`"),
            (
                "{portLevelMtls: {http: {}}}",
                "x.yaml, document 2, spec.portLevelMtls: \"http\" is no port: use",
            ),
            ("{portLevelMtls: {0: {}}}", "x.yaml, document 2, spec.portLevelMtls: \"0\" is no port: use"),
            (
                "{portLevelMtls: {'080': {}}}",
                "x.yaml, document 2, spec.portLevelMtls: \"080\" is no port: use",
            ),
            ("{portLevelMtls: {80: {mode: 1}}}", "x.yaml, document 2, spec.portLevelMtls.80.mode: "),
            (
                "{portLevelMtls: {80: {}}}",
                "x.yaml, document 2, spec.portLevelMtls: has ports, but no selector",
            ),
        ] {
            let error = policy(spec)[0].to_string();
            assert!(error.starts_with(expected), "{spec}: {error}");
        }
    }

    #[test]
    fn the_policy_generation_follows_the_nodes_captured_pods() {
        let pod = |name: &str, node: &str, labels: &str| {
            format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{{labels}}}}}, \
                 spec: {{nodeName: {node}}}}}\n"
            )
        };
        let captured = "pillion.dev/capture: enabled";
        let strict = "---\n{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
                      metadata: {name: p, namespace: default}, spec: {mtls: {mode: STRICT}}}\n";
        let next = |previous: &Mesh, text: &str| {
            let objects = parse("x.yaml", text.as_bytes()).unwrap();
            build(&objects, &Settings::default(), previous).unwrap()
        };
        let here = pod("here", "n1", captured);
        let steps = [
            (here.clone(), 1),
            // Another node's pods, pods outside the mesh and Services are not what verdicts depend on.
            (here.clone() + &pod("there", "n2", captured), 1),
            (here.clone() + &pod("plain", "n1", ""), 1),
            (here.clone() + &service("web", "10.96.0.1"), 1),
            (here.clone() + strict, 5),
            (here.clone(), 6),
            (here.clone() + &pod("more", "n1", captured), 7),
            (pod("here", "n1", "") + &pod("more", "n1", captured), 8),
            (String::new(), 9),
            (String::new(), 9),
        ];
        let mut mesh = next(&Mesh::default(), &pod("there", "n2", captured));
        assert_eq!((mesh.generation, mesh.policy), (1, 0));
        mesh = Mesh::default();
        for (i, (text, expected)) in steps.iter().enumerate() {
            mesh = next(&mesh, text);
            assert_eq!((mesh.generation, mesh.policy), (i as u64 + 1, *expected), "step {}", i + 1);
        }
    }

    #[test]
    fn equal_objects_give_equal_meshes() {
        let text = pod("a", "10.0.0.1", "") + &service("a", "10.96.0.1");
        assert!(same(&mesh(&text).unwrap(), &mesh(&(text.clone() + "# a comment")).unwrap()));
        assert!(!same(&mesh(&text).unwrap(), &mesh(&service("a", "10.96.0.1")).unwrap()));
    }
}
