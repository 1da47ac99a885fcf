//! Objects as clusters have them, and what an agent says of them.

use anyhow::Result;
use pillion_tests::ApiServer;
use serde_json::{Value, json};

/// Makes a pod that runs on another node, with this address.
pub fn pod(api: &ApiServer, name: &str, ip: &str, labels: &Value) -> Result<()> {
    let path = format!("/api/v1/namespaces/default/pods/{name}");
    let object = |rest: Value| {
        let mut object =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}});
        object.as_object_mut().expect("it is one").extend(rest.as_object().cloned().expect("it is one"));
        object
    };
    let spec = json!({"nodeName": "far", "containers": [{"name": "app", "image": "app"}]});
    api.apply(&path, &object(json!({"spec": spec})))?;
    status(api, name, "Running", ip)
}

/// What a kubelet writes.
pub fn status(api: &ApiServer, pod: &str, phase: &str, ip: &str) -> Result<()> {
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod},
        "status": {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}]}});
    api.apply(&format!("/api/v1/namespaces/default/pods/{pod}/status"), &object)
}

pub fn policy(api: &ApiServer, kind: &str, plural: &str, name: &str, spec: &Value) -> Result<()> {
    let object =
        json!({"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    api.apply(&format!("/apis/security.istio.io/v1/namespaces/default/{plural}/{name}"), &object)
}

/// The names of the pods that the agent knows.
pub fn pods(dump: &Value) -> Vec<&str> {
    let workloads = dump["workloads"].as_array().into_iter().flatten();
    workloads.filter_map(|workload| workload["name"]["name"].as_str()).collect()
}

pub fn workload<'a>(dump: &'a Value, pod: &str) -> &'a Value {
    let mut workloads = dump["workloads"].as_array().into_iter().flatten();
    workloads.find(|workload| workload["name"]["name"] == pod).unwrap_or(&Value::Null)
}

/// How a watch stands, as the agent says.
pub fn watch(dump: &Value, resource: &str) -> String {
    let mut watches = dump["manifests"]["watches"].as_array().into_iter().flatten();
    let watch = watches.find(|watch| watch["resource"] == resource);
    watch.and_then(|watch| watch["state"].as_str()).unwrap_or_default().to_owned()
}
