//! Which of a pod's ports the kubelet dials, from the node.

use super::null::null_as_default;
use crate::mesh::PortSet;
use serde::Deserialize;
use serde_json::Value;
use std::num::NonZeroU16;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    #[serde(default, deserialize_with = "null_as_default")]
    pub ports: Vec<ContainerPort>,
    pub liveness_probe: Option<Probe>,
    pub readiness_probe: Option<Probe>,
    pub startup_probe: Option<Probe>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub lifecycle: Lifecycle,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    pub name: Option<String>,
    pub container_port: NonZeroU16,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    pub http_get: Option<Action>,
    pub tcp_socket: Option<Action>,
    pub grpc: Option<GrpcAction>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    pub post_start: Option<Hook>,
    pub pre_stop: Option<Hook>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    pub http_get: Option<Action>,
}

/// A connection that the kubelet makes.
#[derive(Debug, Deserialize)]
pub struct Action {
    pub host: Option<String>,
    pub port: PortRef,
}

#[derive(Debug, Deserialize)]
pub struct GrpcAction {
    pub port: NonZeroU16,
}

/// A port by its number, or by the name that the container gives it.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Value")]
pub enum PortRef {
    Number(NonZeroU16),
    Name(String),
}

impl TryFrom<Value> for PortRef {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let number = |n: u64| u16::try_from(n).ok().and_then(NonZeroU16::new);
        match value {
            Value::String(name) => Ok(Self::Name(name)),
            Value::Number(n) => n.as_u64().and_then(number).map(Self::Number).ok_or(PORT_REF),
            _ => Err(PORT_REF),
        }
    }
}

const PORT_REF: &str = "expected a port from 1 to 65535, or the name of one of the container's ports";

/// The ports that the kubelet probes, or calls at a container's start and end. It dials them at the pod's address, and
/// never through the mesh.
pub(super) fn probe_ports<'a>(containers: impl IntoIterator<Item = &'a Container>) -> PortSet {
    containers.into_iter().flat_map(dialled).collect()
}

fn dialled(container: &Container) -> Vec<u16> {
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    let probes = probes.into_iter().flatten();
    let hooks = [&container.lifecycle.post_start, &container.lifecycle.pre_stop].into_iter().flatten();
    let grpc = probes.clone().filter_map(|probe| probe.grpc.as_ref()).map(|grpc| grpc.port.get());
    let actions = probes
        .flat_map(|probe| [&probe.http_get, &probe.tcp_socket])
        // The kubelet has never called a hook by `tcpSocket`, though the API takes one.
        .chain(hooks.map(|hook| &hook.http_get));
    let ports = actions.flatten().filter(|action| is_own(action));
    ports.filter_map(|action| number(container, &action.port)).chain(grpc).collect()
}

/// With a host of its own an action leads elsewhere.
fn is_own(action: &Action) -> bool {
    action.host.as_deref().unwrap_or_default().is_empty()
}

/// A name is one of the same container's; one that is not known may be a number in quotes, and else leads nowhere (the
/// kubelet's own order).
fn number(container: &Container, port: &PortRef) -> Option<u16> {
    match port {
        PortRef::Number(number) => Some(number.get()),
        PortRef::Name(name) => {
            let named = container.ports.iter().find(|p| p.name.as_deref() == Some(name));
            named.map(|p| p.container_port.get()).or_else(|| name.parse().ok().filter(|port| *port != 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::manifest::objects::PodSpec;
    use serde_json::{Value, json};

    fn ports(spec: Value) -> Vec<u16> {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        spec.probe_ports.into_iter().collect()
    }

    fn container(container: Value) -> Vec<u16> {
        ports(json!({"containers": [container]}))
    }

    #[test]
    fn every_probe_and_hook_of_every_container_counts() {
        let http = |port: u16| json!({"httpGet": {"path": "/", "port": port}});
        let spec = json!({
            "containers": [
                {"livenessProbe": http(1), "readinessProbe": {"tcpSocket": {"port": 2}}, "startupProbe": {"grpc": {"port": 3}}},
                {"lifecycle": {"postStart": http(4), "preStop": http(5)}},
            ],
            "initContainers": [{"restartPolicy": "Always", "startupProbe": http(6)}],
        });
        assert_eq!(ports(spec), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_port_may_be_named_as_the_container_names_it() {
        let probe = |port: Value| {
            container(json!({"ports": [{"name": "health", "containerPort": 9000}],
                "livenessProbe": {"httpGet": {"port": port}}}))
        };
        assert_eq!(probe(json!("health")), [9000]);
        assert_eq!(probe(json!("9001")), [9001]);
        assert_eq!(probe(json!("metrics")), [0; 0]);
        let of_another = json!({"containers": [
            {"ports": [{"name": "health", "containerPort": 9000}]},
            {"livenessProbe": {"httpGet": {"port": "health"}}},
        ]});
        assert_eq!(ports(of_another), [0; 0]);
    }

    #[test]
    fn what_does_not_lead_to_the_pod_is_passed_over() {
        for elsewhere in [
            json!({"livenessProbe": {"httpGet": {"port": 80, "host": "example.com"}}}),
            json!({"livenessProbe": {"tcpSocket": {"port": 80, "host": "127.0.0.1"}}}),
            json!({"livenessProbe": {"exec": {"command": ["true"]}}}),
            json!({"lifecycle": {"preStop": {"tcpSocket": {"port": 80}}}}),
            json!({"livenessProbe": null, "lifecycle": null, "ports": null}),
        ] {
            assert_eq!(container(elsewhere.clone()), [0; 0], "{elsewhere}");
        }
        assert_eq!(container(json!({"livenessProbe": {"httpGet": {"port": 80, "host": ""}}})), [80]);
        assert_eq!(ports(json!({"containers": null, "initContainers": null})), [0; 0]);
    }
}
