//! Publishes a mesh for every state of the objects, wherever they come from, and says what is wrong with them.

use super::last_good::LastGood;
use super::limit::{limited, new_ones};
use super::refused::{PolicyKind, Refusal};
use super::services::CompiledServices;
use super::{ManifestError, Object, PolicyWarnings, Settings, Sourced, snapshot};
use crate::mesh::{Mesh, Policy};
use serde::Serialize;
use std::hash::Hash;
use std::sync::Arc;
use time::{Duration, OffsetDateTime};
use tokio::sync::watch;

/// What everybody may read of the objects: the mesh, and how it stands with it.
#[derive(Clone)]
pub struct Published {
    /// The latest mesh. Readers get every change within a second, not every state in between.
    pub mesh: watch::Receiver<Arc<Mesh>>,
    /// What is wrong at the moment.
    pub status: watch::Receiver<ManifestStatus>,
}

/// How well the objects read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ManifestStatus {
    /// The generation of the mesh in use; 0 while none could be built.
    pub generation: u64,
    /// What is wrong with the objects as they are now. While there is anything in a directory but addresses that several objects
    /// claim, the mesh in use is older; of a cluster's objects each is then in the mesh at its strictest, or left as it was.
    pub errors: Vec<ManifestError>,
    /// Policies that cannot be read. The mesh goes on, with what is in force of them instead.
    pub refused: Vec<Refusal>,
    /// Policies that are in force, and parts of them can never match.
    pub warnings: Vec<PolicyWarnings>,
    /// Why the next agent of this node will not know the last good forms of policies; absent while it will.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_good_not_kept: Option<String>,
    /// How it stands with what comes from the API server, for each resource; none for a directory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub watches: Vec<WatchStatus>,
    /// Since when something has been heard that no mesh was made of yet; absent while there is nothing.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub behind_since: Option<OffsetDateTime>,
}

/// A mesh that is so much older than what has been heard is told: pods may be under rules that are no longer those of the
/// cluster. A cluster of 10,000 pods is read and made a mesh of in less than a second.
const BEHIND: Duration = Duration::seconds(10);

impl ManifestStatus {
    /// Since when the mesh has been behind what was heard; `None` where it is not, or not for long.
    pub fn behind(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        self.behind_since.filter(|since| now - *since >= BEHIND)
    }
}

/// How a watch on one resource of the API server goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WatchStatus {
    /// In the plural, as in paths: `pods`.
    pub resource: &'static str,
    pub state: WatchState,
    /// Since when it is in this state.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Since when it has failed without a word in between, whether it is connected now or not; absent while it does not.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub failing_since: Option<OffsetDateTime>,
    /// What went wrong last, while it is disconnected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchState {
    /// What is known may be old, and stays until the API server is back.
    Disconnected,
    Connected,
    /// The cluster does not have this resource (yet): there are no objects of it.
    Absent,
}

/// Makes meshes of objects, one after the other.
pub struct Publisher {
    last_good: LastGood,
    services: CompiledServices,
    settings: Settings,
    mesh: watch::Sender<Arc<Mesh>>,
    status: watch::Sender<ManifestStatus>,
}

impl Publisher {
    pub fn new(settings: Settings) -> (Self, Published) {
        let (mesh, status) = (watch::Sender::default(), watch::Sender::default());
        let published = Published { mesh: mesh.subscribe(), status: status.subscribe() };
        let last_good = LastGood::open(settings.last_good.clone());
        (Self { last_good, services: CompiledServices::default(), settings, mesh, status }, published)
    }

    /// Whether this node knows policies of this kind, of itself or of an earlier agent.
    pub fn knows(&self, kind: PolicyKind) -> bool {
        self.last_good.knows(kind)
    }

    pub fn has_errors(&self) -> bool {
        !self.status.borrow().errors.is_empty()
    }

    /// Publishes a new generation, unless the objects say what they said before. Where anything is wrong the mesh stays: who writes
    /// manifests mends them. An address that several objects claim is no reason to stay: it is left to one of them.
    pub fn whole(&mut self, objects: Vec<&Sourced>) {
        let current = self.mesh.borrow().clone();
        let (objects, instead, refused) = self.resolve(objects, &[]);
        let warnings = self.warnings(&objects);
        match snapshot::build_but_conflicts(objects.into_iter().chain(&instead), &self.settings, &current) {
            Ok((mesh, conflicts)) => {
                self.put(&current, mesh);
                self.report(conflicts, refused, warnings);
            }
            Err(errors) => self.keep(errors),
        }
    }

    /// Publishes a new generation, unless the objects say what they said before. What is wrong with one object is that
    /// object's alone: many people write a cluster's, and none of them may stop the others' changes. `errors` is what
    /// was wrong with objects that could not be read; `absent` are the kinds that the cluster does not have at the moment.
    pub fn apart(&mut self, objects: Vec<&Sourced>, mut errors: Vec<ManifestError>, absent: &[PolicyKind]) {
        let current = self.mesh.borrow().clone();
        let (objects, instead, refused) = self.resolve(objects, absent);
        let warnings = self.warnings(&objects);
        let (mesh, wrong) = snapshot::build_apart(
            objects.into_iter().chain(&instead),
            &self.settings,
            &current,
            &mut self.services,
        );
        errors.extend(wrong);
        self.put(&current, mesh);
        self.report(limited(errors), refused, warnings);
    }

    /// The mesh stays, and so does what is in force of refused policies.
    pub fn keep(&self, errors: Vec<ManifestError>) {
        let ManifestStatus { refused, warnings, .. } = self.status.borrow().clone();
        self.report(errors, refused, warnings);
    }

    /// Says that something was heard, which is to be in the next mesh. It wakes nobody: who tells people asks each second.
    pub fn heard(&self, now: OffsetDateTime) {
        self.status.send_if_modified(|published| {
            published.behind_since.get_or_insert(now);
            false
        });
    }

    /// Says how it stands with the watches on the API server.
    pub fn watches(&self, watches: Vec<WatchStatus>) {
        self.status.send_if_modified(|published| {
            let modified = published.watches != watches;
            published.watches = watches;
            modified
        });
    }

    /// The objects that can be read, what is in force instead of policies that cannot, and what is said of those.
    fn resolve<'a>(
        &mut self,
        mut objects: Vec<&'a Sourced>,
        absent: &[PolicyKind],
    ) -> (Vec<&'a Sourced>, Vec<Sourced>, Vec<Refusal>) {
        let (instead, refused) = self.last_good.resolve(&objects, absent);
        objects.retain(|sourced| !matches!(sourced.object, Object::RefusedPolicy(_)));
        (objects, instead, refused)
    }

    fn warnings(&self, objects: &[&Sourced]) -> Vec<PolicyWarnings> {
        objects.iter().filter_map(|sourced| PolicyWarnings::of(sourced, &self.settings)).collect()
    }

    fn put(&self, current: &Mesh, mesh: Mesh) {
        if current.generation != 0 && snapshot::same(&mesh, current) {
            return;
        }
        warn_of_http(current, &mesh);
        tracing::info!(
            generation = mesh.generation,
            workloads = mesh.workloads.len(),
            services = mesh.services.len(),
            "a new mesh"
        );
        self.mesh.send_replace(Arc::new(mesh));
    }

    fn report(&self, errors: Vec<ManifestError>, refused: Vec<Refusal>, warnings: Vec<PolicyWarnings>) {
        let generation = self.mesh.borrow().generation;
        self.status.send_if_modified(|published| {
            let left_out = log_new(&errors, &published.errors, |error| tracing::error!("{error}"))
                + log_new(&refused, &published.refused, |refusal| tracing::error!("{refusal}"))
                + log_new(&warnings, &published.warnings, |warning| tracing::warn!("{warning}"));
            if left_out > 0 {
                tracing::error!(left_out, "more is wrong with objects: /config_dump says what");
            }
            published.behind_since = None;
            let watches = published.watches.clone();
            let last_good_not_kept = self.last_good.error();
            let status = ManifestStatus {
                generation,
                errors,
                refused,
                warnings,
                last_good_not_kept,
                watches,
                behind_since: None,
            };
            let modified = *published != status;
            *published = status;
            modified
        });
    }
}

/// Logs what was not said before; how many are left out.
fn log_new<T: Eq + Hash>(now: &[T], before: &[T], log: impl Fn(&T)) -> usize {
    let (new, left_out) = new_ones(now, before);
    new.into_iter().for_each(log);
    left_out
}

/// Says which policies have come into force that speak of HTTP, and so do not mean what they seem to.
fn warn_of_http(before: &Mesh, now: &Mesh) {
    let is_new = |policy: &&Arc<Policy>| before.policies.get(&policy.name) != Some(policy);
    for policy in now.policies.values().filter(|policy| !policy.http_fields.is_empty()).filter(is_new) {
        tracing::warn!(policy = %policy.name, fields = policy.http_fields.join(", "),
            "fields of HTTP fail safe: an ALLOW rule with them matches nothing, others match without them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: SEC-3
    #[test]
    fn an_address_conflict_in_a_directory_holds_back_only_what_conflicts() {
        let (mut publisher, published) = Publisher::new(Settings::default());
        let pod = |name: &str, ip: &str, labels: &str| {
            format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{{labels}}}}}, \
                 status: {{podIPs: [{{ip: {ip}}}]}}}}\n"
            )
        };
        let service = "---\n{apiVersion: v1, kind: Service, metadata: {name: web}, \
                       spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}\n";
        let mut publish = |text: String| {
            let objects = super::super::parse("x.yaml", text.as_bytes()).unwrap();
            publisher.whole(objects.iter().collect());
            let mesh = published.mesh.borrow().clone();
            let owner = |ip: &str| mesh.by_address.get(&ip.parse().unwrap()).map(|pod| pod.name.name.clone());
            let errors = published.status.borrow().errors.len();
            (owner("10.0.0.1"), owner("10.0.0.2"), mesh.services.len(), mesh.disputed.len(), errors)
        };
        let captured = "pillion.dev/capture: enabled";
        let had = pod("had", "10.0.0.1", captured) + service;
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(publish(had.clone()), (some("had"), None, 1, 0, 0));
        // Another pod claims the address, a third one the Service's; what is new beside them is in the mesh.
        for labels in ["", captured] {
            let wrong = pod("a-thief", "10.0.0.1", labels) + &pod("vip", "10.96.0.1", labels);
            let new = pod("new", "10.0.0.2", captured);
            assert_eq!(publish(had.clone() + &wrong + &new), (some("had"), some("new"), 1, 1, 2));
            assert_eq!(publish(had.clone()), (some("had"), None, 1, 0, 0));
        }
    }

    // proves: OPS-3
    #[test]
    fn a_mesh_that_is_behind_what_was_heard_is_told_until_it_is_made() {
        let (mut publisher, published) = Publisher::new(Settings::default());
        let begin = OffsetDateTime::UNIX_EPOCH;
        let behind = |seconds| published.status.borrow().behind(begin + Duration::seconds(seconds));
        publisher.heard(begin);
        publisher.heard(begin + Duration::seconds(9));
        assert_eq!((behind(9), behind(10)), (None, Some(begin)));
        publisher.apart(vec![], vec![], &[]);
        assert_eq!(behind(20), None);
    }
}
