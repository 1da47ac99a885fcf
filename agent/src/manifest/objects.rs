//! Kubernetes objects, with only the fields that the mesh reads.
//!
//! An object is read from JSON values, one at a time, whatever it came from: a manifest or the API server.

use super::Place;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;

/// An object of a kind that the mesh reads.
#[derive(Debug)]
pub enum Object {
    Namespace(Namespace),
    Pod(Pod),
    Service(Service),
    EndpointSlice(EndpointSlice),
}

/// An object and where it was defined.
#[derive(Debug)]
pub struct Sourced {
    pub place: Place,
    pub object: Object,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub namespace: Option<String>,
    pub uid: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
    /// Only whether it is there matters.
    pub deletion_timestamp: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub owner_references: Vec<OwnerReference>,
}

/// An object's namespace and name.
pub type Key<'a> = (&'a str, &'a str);

#[derive(Debug, Deserialize)]
pub struct OwnerReference {
    pub kind: String,
    pub name: String,
    pub controller: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub struct Namespace {
    pub metadata: Metadata,
}

#[derive(Debug, Deserialize)]
pub struct Pod {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: PodSpec,
    #[serde(default, deserialize_with = "null_as_default")]
    pub status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    pub node_name: Option<String>,
    pub service_account_name: Option<String>,
    pub host_network: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    pub phase: Option<String>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(default, rename = "podIPs", deserialize_with = "null_as_default")]
    pub pod_ips: Vec<PodIp>,
}

#[derive(Debug, Deserialize)]
pub struct PodIp {
    pub ip: String,
}

#[derive(Debug, Deserialize)]
pub struct Service {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: ServiceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    #[serde(default, rename = "clusterIPs", deserialize_with = "null_as_default")]
    pub cluster_ips: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub ports: Vec<ServicePort>,
}

#[derive(Debug, Deserialize)]
pub struct ServicePort {
    pub name: Option<String>,
    pub port: std::num::NonZeroU16,
    /// TCP where it is not given.
    pub protocol: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    pub metadata: Metadata,
    pub address_type: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub ports: Vec<EndpointPort>,
}

#[derive(Debug, Deserialize)]
pub struct Endpoint {
    pub addresses: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub conditions: EndpointConditions,
}

#[derive(Debug, Default, Deserialize)]
pub struct EndpointConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub struct EndpointPort {
    pub name: Option<String>,
    /// Absent means every port, which no Service with a selector has: such an entry is passed over.
    pub port: Option<std::num::NonZeroU16>,
    /// TCP where it is not given.
    pub protocol: Option<String>,
}

impl Metadata {
    /// The namespace that a namespaced object is in.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    pub fn key(&self) -> Key<'_> {
        (self.namespace(), &self.name)
    }
}

impl EndpointConditions {
    /// What is not said is ready (the EndpointSlice API's own rule).
    pub fn is_ready(&self) -> bool {
        self.ready.unwrap_or(true)
    }

    /// Terminating, but still serving: good enough where nothing is ready.
    pub fn is_draining(&self) -> bool {
        self.terminating.unwrap_or(false) && self.serving.unwrap_or_else(|| self.is_ready())
    }
}

impl Object {
    /// Reads an object; `Ok(None)` for a kind that the mesh does not read.
    ///
    /// # Errors
    /// The path of the field that is wrong, and what is wrong with it.
    pub fn read(value: &Value) -> Result<Option<Self>, (String, String)> {
        let field = |name: &str| match value.get(name) {
            Some(Value::String(s)) => Ok(s.as_str()),
            Some(_) => Err((name.to_owned(), "expected a string".to_owned())),
            None => Err((name.to_owned(), "is missing; every Kubernetes object has one".to_owned())),
        };
        Ok(Some(match (field("apiVersion")?, field("kind")?) {
            ("v1", "Namespace") => Self::Namespace(typed(value)?),
            ("v1", "Pod") => Self::Pod(typed(value)?),
            ("v1", "Service") => Self::Service(typed(value)?),
            ("discovery.k8s.io/v1", "EndpointSlice") => Self::EndpointSlice(typed(value)?),
            _ => return Ok(None),
        }))
    }
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        (if path == "." { String::new() } else { path }, error.into_inner().to_string())
    })
}

/// The API server writes `null` for what is empty.
fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_wrong_field_is_named_by_its_path() {
        let object =
            |spec| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec});
        let read = |spec| Object::read(&object(spec)).unwrap_err();
        let (field, message) = read(json!({"ports": [{"port": 80}, {"port": "http"}]}));
        assert_eq!(field, "spec.ports[1].port");
        assert!(message.contains("invalid type: string \"http\""), "{message}");
        let (field, message) = read(json!({"ports": [{"port": 70000}]}));
        assert_eq!(field, "spec.ports[0].port");
        assert!(message.contains("70000"), "{message}");
        assert_eq!(read(json!({"ports": [{"port": 0}]})).0, "spec.ports[0].port");
    }

    #[test]
    fn null_is_what_the_api_server_writes_for_empty() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "status": null,
            "metadata": {"name": "a", "namespace": null, "labels": null, "deletionTimestamp": null}});
        let Some(Object::Pod(pod)) = Object::read(&pod).unwrap() else { panic!("no pod") };
        assert_eq!(pod.metadata.namespace(), "default");
        assert!(pod.metadata.deletion_timestamp.is_none());
    }

    #[test]
    fn a_kind_is_known_by_its_api_group_too() {
        let knative = json!({"apiVersion": "serving.knative.dev/v1", "kind": "Service"});
        assert!(Object::read(&knative).unwrap().is_none());
        assert_eq!(Object::read(&json!({"kind": "Pod"})).unwrap_err().0, "apiVersion");
        assert_eq!(Object::read(&json!({"apiVersion": "v1", "kind": 1})).unwrap_err().0, "kind");
    }
}
