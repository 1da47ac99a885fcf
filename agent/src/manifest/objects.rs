//! Kubernetes objects, with only the fields that the mesh reads.
//!
//! An object is read from JSON values, one at a time, whatever it came from: a manifest or the API server.

use super::Place;
use super::authorization::{AuthorizationPolicy, DRY_RUN};
use super::metadata::Metadata;
use super::null::null_as_default;
use super::peer_authentication::PeerAuthentication;
use super::probes::{Container, probe_ports};
use super::refused::{PolicyKind, RefusedPolicy};
use super::selector::{LabelSelector, every_pod, selector_or_wrong};
use crate::mesh::PortSet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::num::NonZeroU16;
use std::sync::Arc;

/// An object of a kind that the mesh reads.
#[derive(Debug, PartialEq)]
pub enum Object {
    Namespace(Namespace),
    Pod(Pod),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    PeerAuthentication(Arc<PeerAuthentication>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    /// A policy that is none: what to do about it depends on what it was before.
    RefusedPolicy(Arc<RefusedPolicy>),
    NetworkPolicy(NetworkPolicy),
}

/// An object and where it was defined.
#[derive(Debug, PartialEq)]
pub struct Sourced {
    pub place: Place,
    pub object: Object,
}

#[derive(Debug, PartialEq, Deserialize)]
pub struct Namespace {
    pub metadata: Metadata,
}

#[derive(Debug, PartialEq, Deserialize)]
pub struct Pod {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: PodSpec,
    #[serde(default, deserialize_with = "null_as_default")]
    pub status: PodStatus,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(from = "WrittenPodSpec")]
pub struct PodSpec {
    pub node_name: Option<String>,
    pub service_account_name: Option<String>,
    pub host_network: Option<bool>,
    /// The ports that the kubelet dials: all that is kept of the containers, of which there are many.
    pub probe_ports: PortSet,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenPodSpec {
    node_name: Option<String>,
    service_account_name: Option<String>,
    host_network: Option<bool>,
    #[serde(default, deserialize_with = "null_as_default")]
    containers: Vec<Container>,
    #[serde(default, deserialize_with = "null_as_default")]
    init_containers: Vec<Container>,
}

impl From<WrittenPodSpec> for PodSpec {
    fn from(written: WrittenPodSpec) -> Self {
        Self {
            node_name: written.node_name,
            service_account_name: written.service_account_name,
            host_network: written.host_network,
            // Of the init containers only those that go on (native sidecars) may have probes.
            probe_ports: probe_ports(written.containers.iter().chain(&written.init_containers)),
        }
    }
}

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    pub phase: Option<String>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(default, rename = "podIPs", deserialize_with = "null_as_default")]
    pub pod_ips: Vec<PodIp>,
}

#[derive(Debug, PartialEq, Deserialize)]
pub struct PodIp {
    pub ip: String,
}

#[derive(Debug, PartialEq, Deserialize)]
pub struct Service {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: ServiceSpec,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
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
    pub traffic_distribution: Option<String>,
    pub internal_traffic_policy: Option<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
pub struct ServicePort {
    pub name: Option<String>,
    pub port: NonZeroU16,
    /// TCP where it is not given.
    pub protocol: Option<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    pub metadata: Metadata,
    pub address_type: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub ports: Vec<EndpointPort>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    pub addresses: Vec<String>,
    pub node_name: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub conditions: EndpointConditions,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
pub struct EndpointConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, PartialEq, Deserialize)]
pub struct EndpointPort {
    pub name: Option<String>,
    /// Absent means every port, which no Service with a selector has: such an entry is passed over.
    pub port: Option<NonZeroU16>,
    /// TCP where it is not given.
    pub protocol: Option<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
pub struct NetworkPolicy {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: NetworkPolicySpec,
}

/// Only whom it selects matters here; the cluster's network enforces it.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Or what is wrong with it: such a policy may select every pod.
    #[serde(default = "every_pod", deserialize_with = "selector_or_wrong")]
    pub pod_selector: Result<LabelSelector, String>,
}

impl Default for NetworkPolicySpec {
    fn default() -> Self {
        Self { pod_selector: every_pod() }
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
    /// A policy that is wrong is an object, too, as long as it has a name.
    ///
    /// # Errors
    /// The path of the field that is wrong, and what is wrong with it.
    pub fn read(value: &Value) -> Result<Option<Self>, Mistake> {
        let field = |name: &str| match value.get(name) {
            Some(Value::String(s)) => Ok(s.as_str()),
            Some(_) => Err((name.to_owned(), "expected a string".to_owned())),
            None => Err((name.to_owned(), "is missing; every Kubernetes object has one".to_owned())),
        };
        Ok(Some(match (field("apiVersion")?, field("kind")?) {
            ("v1", "Namespace") => Self::Namespace(typed(value)?),
            ("v1", "Pod") => Self::Pod(typed(value)?),
            ("v1", "Service") => Self::Service(Arc::new(typed(value)?)),
            ("discovery.k8s.io/v1", "EndpointSlice") => Self::EndpointSlice(Arc::new(typed(value)?)),
            ("security.istio.io/v1" | "security.istio.io/v1beta1", "PeerAuthentication") => {
                let read =
                    typed(value).and_then(|policy: PeerAuthentication| policy.check().map(|()| policy));
                let text = || written(value, PolicyKind::PeerAuthentication);
                let whole = |policy| PeerAuthentication { text: text(), ..policy };
                let policy = read.map(|policy| Self::PeerAuthentication(Arc::new(whole(policy))));
                policy.or_else(|wrong| refused(PolicyKind::PeerAuthentication, value, wrong))?
            }
            ("security.istio.io/v1" | "security.istio.io/v1beta1", "AuthorizationPolicy") => {
                let text = || written(value, PolicyKind::AuthorizationPolicy);
                let whole = |policy| AuthorizationPolicy { text: text(), ..policy };
                let policy = typed(value).map(|policy| Self::AuthorizationPolicy(Arc::new(whole(policy))));
                policy.or_else(|wrong| refused(PolicyKind::AuthorizationPolicy, value, wrong))?
            }
            ("networking.k8s.io/v1", "NetworkPolicy") => Self::NetworkPolicy(typed(value)?),
            _ => return Ok(None),
        }))
    }

    /// What an object is that has a field which cannot be read: a policy is refused, as one with a wrong field is.
    ///
    /// # Errors
    /// `wrong`, for an object of another kind, and for a policy without a name.
    pub fn unreadable(value: &Value, wrong: Mistake) -> Result<Self, Mistake> {
        match value.get("kind").and_then(Value::as_str).and_then(PolicyKind::of) {
            Some(kind) => refused(kind, value, wrong),
            None => Err(wrong),
        }
    }
}

/// What is wrong with an object: the path of the field, and the message.
pub type Mistake = (String, String);

/// A policy's text as it is kept for the time when the policy cannot be read: what of it means anything here.
fn written(value: &Value, kind: PolicyKind) -> Box<str> {
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "generation", "creationTimestamp"] {
        if let Some(known) = value["metadata"].get(field) {
            metadata.insert(field.to_owned(), known.clone());
        }
    }
    if let Some(dry_run) = value["metadata"]["annotations"].get(DRY_RUN) {
        metadata.insert("annotations".to_owned(), json!({ DRY_RUN: dry_run }));
    }
    let api_version = "security.istio.io/v1";
    let object =
        json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": value.get("spec")});
    object.to_string().into()
}

fn refused(kind: PolicyKind, value: &Value, wrong: Mistake) -> Result<Object, Mistake> {
    match RefusedPolicy::new(kind, value, &wrong) {
        Some(policy) => Ok(Object::RefusedPolicy(Arc::new(policy))),
        None => Err(wrong),
    }
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Mistake> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        (if path == "." { String::new() } else { path }, error.into_inner().to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_probes_port_is_a_number_or_a_name() {
        let read = |port: Value| {
            let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
                "spec": {"containers": [{"livenessProbe": {"httpGet": {"port": port}}}]}});
            Object::read(&object)
        };
        assert!(read(json!(80)).is_ok() && read(json!("http")).is_ok());
        for bad in [json!(0), json!(65536), json!(-1), json!(80.5), json!([]), Value::Null] {
            let (field, message) = read(bad.clone()).unwrap_err();
            assert_eq!(field, "spec.containers[0].livenessProbe.httpGet.port", "{bad}");
            assert!(message.starts_with("expected a port from 1"), "{bad}: {message}");
        }
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
