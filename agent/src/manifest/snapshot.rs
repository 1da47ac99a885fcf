//! Builds a mesh from objects. Pure: the same objects give an equal mesh.

use super::authorization::AuthorizationPolicy;
use super::metadata::{Key, Metadata};
use super::objects::{Namespace, NetworkPolicy, Object, Pod, Service};
use super::owners::{Authors, Claimant, Owners};
use super::peer_authentication::PeerAuthentication;
use super::policies::Policies;
use super::services::{self, CompiledServices};
use super::vanished::vanished;
use super::{ManifestError, Place, Sourced, workloads};
use crate::mesh::{Mesh, PodName, TrustDomains};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

/// What a mesh is built by, besides its objects.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node that this agent serves.
    pub node: String,
    pub trust_domains: TrustDomains,
    /// The namespace whose policies are the whole mesh's.
    pub root_namespace: String,
    /// The file in which the last good form of each policy outlives the agent; none for who only asks.
    pub last_good: Option<PathBuf>,
}

#[cfg(test)]
impl Default for Settings {
    fn default() -> Self {
        Self {
            node: "n1".into(),
            trust_domains: TrustDomains::default(),
            root_namespace: super::ROOT_NAMESPACE.into(),
            last_good: None,
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
    match build_but_conflicts(objects, settings, previous)? {
        (mesh, conflicts) if conflicts.is_empty() => Ok(mesh),
        (_, conflicts) => Err(conflicts),
    }
}

/// Builds the mesh as [`build`] does. Addresses that several objects claim hold back those objects alone: each is left to one of them
/// (`Owners::settle`), and connections to it are not plain where one of them is captured. Gives the mesh, and what is said of such objects.
///
/// # Errors
/// As of [`build`], but for the conflicts.
pub fn build_but_conflicts<'a>(
    objects: impl IntoIterator<Item = &'a Sourced>,
    settings: &Settings,
    previous: &Mesh,
) -> Result<(Mesh, Vec<ManifestError>), Vec<ManifestError>> {
    let Assembled { mesh, mut errors, conflicts } =
        assemble(objects, settings, previous, &mut CompiledServices::default(), Authors::One);
    if errors.is_empty() {
        return Ok((mesh, conflicts));
    }
    errors.extend(conflicts);
    Err(errors)
}

/// Builds the mesh as [`build`] does, of objects that many people write: what is wrong with one is no reason to stop at what
/// all were before. No pod is left out. What of it cannot be read is as strict as it can be: the label to capture it says
/// yes, nothing is excluded, nothing is open without an agent. Where a pod's network namespace is no pod says.
/// `compiled` are the Services of the last mesh that was built like this.
pub fn build_apart<'a>(
    objects: impl IntoIterator<Item = &'a Sourced>,
    settings: &Settings,
    previous: &Mesh,
    compiled: &mut CompiledServices,
) -> (Mesh, Vec<ManifestError>) {
    let Assembled { mesh, mut errors, conflicts } =
        assemble(objects, settings, previous, compiled, Authors::Many);
    errors.extend(conflicts);
    (mesh, errors)
}

/// What objects come to.
struct Assembled {
    mesh: Mesh,
    /// What is wrong with single objects.
    errors: Vec<ManifestError>,
    /// Which addresses several objects claim.
    conflicts: Vec<ManifestError>,
}

fn assemble<'a>(
    objects: impl IntoIterator<Item = &'a Sourced>,
    settings: &Settings,
    previous: &Mesh,
    compiled: &mut CompiledServices,
    authors: Authors,
) -> Assembled {
    let (mut errors, mut conflicts) = (Vec::new(), Vec::new());
    let objects = Objects::sort(objects, &mut errors);
    let mut mesh = Mesh { generation: previous.generation + 1, ..Mesh::default() };

    let policies = Policies::new(
        &settings.root_namespace,
        &settings.trust_domains,
        objects.peer_authentications.values().map(|(_, policy)| *policy),
        objects.authorization_policies.values().map(|(_, policy)| *policy),
        objects.network_policies.values().map(|(_, policy)| *policy),
    );
    for (key, why) in policies.refused_network_policies() {
        if let Some((place, _)) = objects.network_policies.get(key) {
            errors.push(place.error("spec.podSelector", why.clone()));
        }
    }
    let of_pods = objects.authorization_policies.values().filter(|(_, policy)| !policy.has_target);
    mesh.policies = of_pods.map(|(_, object)| (object.policy.name.clone(), object.policy.clone())).collect();

    let namespaces = Namespaces::new(&objects, previous, authors);
    mesh.captured_namespaces = namespaces.captured.clone();
    mesh.plain_namespaces = (authors == Authors::Many).then(|| namespaces.plain.clone());

    let slices = services::slices_by_service(&objects.slices);
    let mut all_services = Vec::with_capacity(objects.services.len());
    for (key, (place, service)) in &objects.services {
        let made = compiled.service(place, service, slices.get(key).map_or(&[], Vec::as_slice));
        all_services.extend(made.service.map(|service| (*place, service)));
        errors.extend(made.errors);
    }
    compiled.end_turn();

    let mut pods = Vec::with_capacity(objects.pods.len());
    for (key, (place, pod)) in &objects.pods {
        let namespace = objects.namespaces.get(&("", key.0)).map(|(_, namespace)| *namespace);
        let namespace = namespace.ok_or_else(|| namespaces.capture_by_default(pod, previous, authors));
        let (mut workload, wrong) =
            workloads::workload(pod, namespace, settings.trust_domains.own(), &policies);
        errors.extend(wrong.into_iter().map(|w| place.error(w.field, w.message)));
        if authors == Authors::Many {
            // Whoever makes a pod would say which namespace of the node the agent enters.
            workload.netns = None;
        }
        pods.push(Claimant { place, made: pod.metadata.creation_timestamp, workload });
    }
    let of_services: HashSet<_> =
        all_services.iter().flat_map(|(_, service)| service.cluster_ips.iter().copied()).collect();
    let (mut owners, disputed) = Owners::settle(&mut pods, authors, &of_services, previous, &mut conflicts);
    mesh.disputed = disputed;
    mesh.by_address.reserve(pods.len());
    mesh.workloads.reserve(pods.len());
    for Claimant { workload, .. } in pods {
        // What is equal is shared: a generation of many pods costs what has changed.
        let workload = match previous.workloads.get(&workload.name) {
            Some(before) if **before == workload => before.clone(),
            _ => Arc::new(workload),
        };
        mesh.by_address.extend(workload.addresses.iter().map(|address| (*address, workload.clone())));
        mesh.workloads.insert(workload.name.clone(), workload);
    }

    for (place, service) in &all_services {
        for ip in &service.cluster_ips {
            if owners.claim(*ip, service, place, &mesh.by_address, &mut conflicts) {
                mesh.services.insert(*ip, service.clone());
            }
        }
    }
    mesh.vanished = vanished(previous, &mesh);
    mesh.policy = policy_generation(previous, &mesh, &settings.node);
    Assembled { mesh, errors, conflicts }
}

/// Which namespaces' pods are captured unless they say otherwise.
struct Namespaces {
    captured: BTreeSet<String>,
    plain: BTreeSet<String>,
}

impl Namespaces {
    /// A namespace whose object is gone is what it was before, for as long as there are pods of it: that the object is gone says
    /// nothing of them.
    fn new(objects: &Objects<'_>, previous: &Mesh, authors: Authors) -> Self {
        let mut all = Self { captured: BTreeSet::new(), plain: BTreeSet::new() };
        for (_, namespace) in objects.namespaces.values() {
            let is_captured = workloads::captures(namespace);
            let those = if is_captured { &mut all.captured } else { &mut all.plain };
            those.insert(namespace.metadata.name.clone());
        }
        for (namespace, _) in
            objects.pods.keys().filter(|(name, _)| !objects.namespaces.contains_key(&("", *name)))
        {
            if previous.captured_namespaces.contains(*namespace) {
                all.captured.insert((*namespace).to_owned());
            } else if authors == Authors::Many
                && previous.plain_namespaces.as_ref().is_some_and(|plain| plain.contains(*namespace))
            {
                all.plain.insert((*namespace).to_owned());
            }
        }
        all
    }

    /// Whether a pod is captured whose Namespace object is not known, unless its own label says so or otherwise.
    ///
    /// In a cluster every pod is in a namespace that has an object: one that has not been heard of may be captured. A directory
    /// need not have it.
    fn capture_by_default(&self, pod: &Pod, previous: &Mesh, authors: Authors) -> bool {
        let Metadata { uid, .. } = &pod.metadata;
        let namespace = pod.metadata.namespace();
        if authors == Authors::One {
            return self.captured.contains(namespace);
        }
        let name = PodName { namespace: namespace.to_owned(), name: pod.metadata.name.clone() };
        let before = previous.workloads.get(&name).filter(|before| Some(&before.uid) == uid.as_ref());
        let was_captured = before.is_some_and(|before| before.captured);
        was_captured || !self.plain.contains(namespace)
    }
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
        && a.plain_namespaces == b.plain_namespaces
        && a.disputed == b.disputed
        && a.vanished == b.vanished
}

/// The objects by kind and name. Ordered, so that errors come in the same order every time.
#[derive(Default)]
struct Objects<'a> {
    namespaces: BTreeMap<Key<'a>, (&'a Place, &'a Namespace)>,
    pods: BTreeMap<Key<'a>, (&'a Place, &'a Pod)>,
    services: BTreeMap<Key<'a>, (&'a Place, &'a Arc<Service>)>,
    slices: BTreeMap<Key<'a>, services::Slice<'a>>,
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

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
