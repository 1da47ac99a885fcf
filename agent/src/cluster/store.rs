//! The objects that the API server has, as far as it was heard.

use super::condition::{Told, Verdict};
use super::resources::{RESOURCES, Resource};
use super::value::Unreadable;
use super::watch::Heard;
use crate::manifest::{ManifestError, Object, Place, Settings, Sourced};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// An object as it came, read.
pub struct Item {
    /// Its kind, namespace and name: `Pod shop/cart`.
    name: Arc<str>,
    read: Result<Object, (String, String)>,
    /// Of a policy: what it says of itself.
    told: Option<Told>,
}

/// A policy, and what it says of itself.
pub struct PolicyObject<'a> {
    pub resource: &'static Resource,
    pub name: &'a Arc<str>,
    object: &'a Object,
    told: &'a Told,
}

impl PolicyObject<'_> {
    /// What it should say of itself and does not.
    pub fn lacks(&self, settings: &Settings) -> Option<Verdict> {
        self.told.lacks([self.object.complaint(), self.object.never_matches(settings)])
    }

    pub fn namespace_and_name(&self) -> Option<(&str, &str)> {
        self.name.split_once(' ')?.1.split_once('/')
    }
}

impl Heard for Item {
    /// Reads an object of a resource. Nothing is kept of its text but the fields of [`Object`]. A field that cannot be read is an
    /// error of the object if the mesh reads it. An object without a name that can be read is one, too: it is told under its kind.
    fn read(resource: &Resource, mut value: Value, unreadable: &[Unreadable]) -> Option<Self> {
        let text = |field: &str| value.get("metadata")?.get(field)?.as_str();
        let name = match (text("namespace"), text("name")) {
            (Some(namespace), Some(name)) => format!("{} {namespace}/{name}", resource.kind),
            (None, Some(name)) => format!("{} {name}", resource.kind),
            (_, None) => resource.kind.to_owned(),
        };
        // The items of a list leave out what the list's own kind says.
        if let Some(object) = value.as_object_mut() {
            object.insert("apiVersion".to_owned(), resource.api_version.into());
            object.insert("kind".to_owned(), resource.kind.into());
        }
        let told = resource.is_policy.then(|| Told::read(&value));
        let mut wrong =
            unreadable.iter().filter(|unreadable| resource.reads_status || !unreadable.is_in("status"));
        let read = match wrong.next() {
            Some(Unreadable { field, message }) => {
                Object::unreadable(&value, (field.clone(), message.clone()))
            }
            None => match Object::read(&value) {
                Ok(Some(object)) => Ok(object),
                Ok(None) => return None,
                Err(wrong) => Err(wrong),
            },
        };
        Some(Self { name: name.into(), read, told })
    }
}

/// All objects of all resources.
pub struct Store([Objects; RESOURCES.len()]);

/// The objects of one resource, by name.
#[derive(Default)]
struct Objects {
    /// All of them have been heard once.
    is_known: bool,
    objects: BTreeMap<Arc<str>, Sourced>,
    /// Objects that cannot be read. What was known of them before stays among the objects.
    unreadable: BTreeMap<Arc<str>, ManifestError>,
    /// What policies say of themselves.
    told: BTreeMap<Arc<str>, Told>,
}

impl Default for Store {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Objects::default()))
    }
}

impl Store {
    /// Takes these for all objects of a resource. True when that changes anything.
    pub fn replace(&mut self, resource: usize, items: Vec<Item>) -> bool {
        let objects = &mut self.0[resource];
        let mut changed = !std::mem::replace(&mut objects.is_known, true);
        let mut before = std::mem::take(&mut objects.objects);
        let mut unreadable = std::mem::take(&mut objects.unreadable);
        objects.told.clear();
        for item in items {
            if let Some((name, sourced)) = before.remove_entry(&item.name) {
                objects.objects.insert(name, sourced);
            }
            if let Some((name, error)) = unreadable.remove_entry(&item.name) {
                objects.unreadable.insert(name, error);
            }
            changed |= objects.put(item);
        }
        changed || !before.is_empty() || !unreadable.is_empty()
    }

    /// Takes in an object that is new or has changed. True when anything changes that the mesh reads.
    pub fn put(&mut self, resource: usize, item: Item) -> bool {
        self.0[resource].put(item)
    }

    /// Forgets an object. True when it was there.
    pub fn delete(&mut self, resource: usize, item: &Item) -> bool {
        let objects = &mut self.0[resource];
        let was_unreadable = objects.unreadable.remove(&item.name).is_some();
        objects.told.remove(&item.name);
        objects.objects.remove(&item.name).is_some() || was_unreadable
    }

    /// Whether all objects of every resource have been heard once: before, there is no mesh to make of them.
    pub fn is_whole(&self) -> bool {
        self.0.iter().all(|objects| objects.is_known)
    }

    pub fn objects(&self) -> Vec<&Sourced> {
        self.0.iter().flat_map(|objects| objects.objects.values()).collect()
    }

    /// The policies, each with what it says of itself.
    pub fn policies(&self) -> impl Iterator<Item = PolicyObject<'_>> {
        let of_policies = RESOURCES.iter().zip(&self.0).filter(|(resource, _)| resource.is_policy);
        of_policies.flat_map(|(resource, objects)| {
            objects.told.iter().filter_map(move |(name, told)| {
                let object = &objects.objects.get(name)?.object;
                Some(PolicyObject { resource, name, object, told })
            })
        })
    }

    /// How many nodes have pods: as many agents may there be.
    pub fn nodes(&self) -> usize {
        let objects = self.0.iter().flat_map(|objects| objects.objects.values());
        let nodes = objects.filter_map(|sourced| match &sourced.object {
            Object::Pod(pod) => pod.spec.node_name.as_deref(),
            _ => None,
        });
        nodes.collect::<HashSet<_>>().len()
    }

    pub fn errors(&self) -> Vec<ManifestError> {
        self.0.iter().flat_map(|objects| objects.unreadable.values().cloned()).collect()
    }
}

impl Objects {
    fn put(&mut self, item: Item) -> bool {
        let Item { name, read, told } = item;
        if let Some(told) = told {
            self.told.insert(name.clone(), told);
        }
        match read {
            Ok(object) => {
                let was_unreadable = self.unreadable.remove(&name).is_some();
                // Most changes are of fields that nobody reads here.
                match self.objects.get_mut(&name) {
                    Some(known) if known.object == object => return was_unreadable,
                    Some(known) => known.object = object,
                    None => {
                        let place = Place::object(name.clone());
                        self.objects.insert(name, Sourced { place, object });
                    }
                }
                true
            }
            Err((field, message)) => {
                let error = Place::object(name.clone()).error(&field, message);
                self.unreadable.insert(name, error.clone()).is_none_or(|before| before != error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SERVICES: usize = 2;

    fn service(name: &str, port: Value) -> Item {
        let object = json!({"metadata": {"name": name, "namespace": "shop", "resourceVersion": "7"},
            "spec": {"ports": [{"port": port}]}});
        Item::read(&RESOURCES[SERVICES], object, &[]).unwrap()
    }

    fn names(store: &Store) -> Vec<String> {
        store.objects().iter().map(|sourced| sourced.place.to_string()).collect()
    }

    #[test]
    fn only_what_the_mesh_reads_is_a_change() {
        let mut store = Store::default();
        assert!(store.put(SERVICES, service("cart", json!(80))));
        let mut object = json!({"metadata": {"name": "cart", "namespace": "shop", "resourceVersion": "8",
            "annotations": {"example.com/note": "new"}}, "spec": {"ports": [{"port": 80}]}});
        assert!(!store.put(SERVICES, Item::read(&RESOURCES[SERVICES], object.clone(), &[]).unwrap()));
        object["spec"]["ports"][0]["port"] = json!(81);
        assert!(store.put(SERVICES, Item::read(&RESOURCES[SERVICES], object, &[]).unwrap()));
        assert_eq!(names(&store), ["Service shop/cart"]);
    }

    #[test]
    fn what_a_new_list_does_not_have_is_gone() {
        let mut store = Store::default();
        assert!(store.replace(SERVICES, vec![service("a", json!(80)), service("b", json!(80))]));
        assert!(!store.replace(SERVICES, vec![service("b", json!(80)), service("a", json!(80))]));
        assert!(store.replace(SERVICES, vec![service("b", json!(80))]));
        assert_eq!(names(&store), ["Service shop/b"]);
        assert!(store.delete(SERVICES, &service("b", json!(80))));
        assert!(!store.delete(SERVICES, &service("b", json!(80))));
        assert!(names(&store).is_empty());
    }

    #[test]
    fn an_object_that_cannot_be_read_stays_as_it_was() {
        let mut store = Store::default();
        store.replace(SERVICES, vec![service("a", json!(80))]);
        assert!(store.put(SERVICES, service("a", json!("http"))));
        assert!(!store.put(SERVICES, service("a", json!("http"))));
        assert_eq!(names(&store), ["Service shop/a"]);
        let error = store.errors()[0].to_string();
        assert!(error.starts_with("Service shop/a, spec.ports[0].port: "), "{error}");
        // Listing anew says the same.
        assert!(!store.replace(SERVICES, vec![service("a", json!("http"))]));
        assert_eq!((names(&store).len(), store.errors().len()), (1, 1));
        assert!(store.put(SERVICES, service("a", json!(80))));
        assert!(store.errors().is_empty());
    }

    #[test]
    fn a_mesh_is_made_once_everything_has_been_heard() {
        let mut store = Store::default();
        for resource in 0..RESOURCES.len() {
            assert!(!store.is_whole());
            assert!(store.replace(resource, vec![]));
        }
        assert!(store.is_whole());
    }
}
