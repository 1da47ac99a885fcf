//! A sandbox, as CRI tells of it.

use super::messages::{NODE, PodSandboxStatus, PodSandboxStatusResponse};
use crate::sandbox::{Sandbox, Told};
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;

/// What containerd and CRI-O say in JSON of a sandbox, as far as it matters here.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Info {
    pid: u32,
    runtime_spec: Option<Spec>,
}

/// The OCI runtime's.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    linux: Linux,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Linux {
    namespaces: Vec<Namespace>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Namespace {
    r#type: String,
    path: String,
}

/// Reads what the runtime says. Where it does not say where a pod's own network is, the sandbox has none, and the reason is
/// given besides: such a pod is not on the host network, and not plain.
pub fn read(response: PodSandboxStatusResponse) -> (Sandbox, Option<String>) {
    let status = response.status.unwrap_or_default();
    let info = response.info.get("info").map(|json| serde_json::from_str::<Info>(json));
    let on_host = is_on_the_nodes_network(&status);
    let found = match info {
        _ if on_host => Ok(None),
        Some(Ok(info)) => netns(&status.id, info).map(Some),
        Some(Err(e)) => Err(format!("what the runtime says of it cannot be read: {e}")),
        None => Err("the runtime says nothing more of it".to_owned()),
    };
    let (netns, why) = match found {
        Ok(netns) => (netns, None),
        Err(why) => (None, Some(why)),
    };
    let metadata = status.metadata.unwrap_or_default();
    let network = status.network.unwrap_or_default();
    let ips = [network.ip].into_iter().chain(network.additional_ips.into_iter().map(|more| more.ip));
    let told = Told {
        id: status.id,
        namespace: metadata.namespace,
        name: metadata.name,
        uid: metadata.uid,
        labels: status.labels,
        annotations: status.annotations,
        netns,
        on_host,
        ips: ips.collect(),
        handler: status.runtime_handler,
    };
    (told.into(), why)
}

fn is_on_the_nodes_network(status: &PodSandboxStatus) -> bool {
    let namespaces = status.linux.as_ref().and_then(|linux| linux.namespaces.as_ref());
    namespaces.and_then(|namespaces| namespaces.options.as_ref()).is_some_and(|own| own.network == NODE)
}

/// Where the network namespace is: its path, or its first process's, if that is the sandbox's in this process's view. A pid
/// of another pid namespace is some other process here.
fn netns(id: &str, info: Info) -> Result<PathBuf, String> {
    let namespaces = info.runtime_spec.unwrap_or_default().linux.namespaces;
    let network = namespaces.into_iter().find(|namespace| namespace.r#type == "network");
    if let Some(network) = network.filter(|network| network.path.starts_with('/')) {
        return Ok(network.path.into());
    }
    let pid = info.pid;
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    match !id.is_empty() && cgroup.contains(id) {
        true => Ok(format!("/proc/{pid}/ns/net").into()),
        false => {
            Err(format!("the runtime names no network namespace, and its process {pid} is not one here"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{LinuxPodSandboxStatus, NamespaceOptions, Namespaces, PodIp};
    use super::super::messages::{PodSandboxMetadata, PodSandboxNetworkStatus};
    use super::*;

    fn response(network: i32, info: &str) -> PodSandboxStatusResponse {
        let options = Some(NamespaceOptions { network });
        let status = PodSandboxStatus {
            id: "a".repeat(64),
            metadata: Some(PodSandboxMetadata {
                name: "web".into(),
                uid: "u".into(),
                namespace: "shop".into(),
            }),
            network: Some(PodSandboxNetworkStatus {
                ip: "10.0.0.7".into(),
                additional_ips: vec![PodIp { ip: "fd00::7".into() }],
            }),
            linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespaces { options }) }),
            runtime_handler: "runc".into(),
            ..PodSandboxStatus::default()
        };
        let info = [("info".to_owned(), info.to_owned())].into();
        PodSandboxStatusResponse { status: Some(status), info }
    }

    #[test]
    fn a_pods_network_namespace_is_where_its_specification_says() {
        let info = r#"{"pid": 7, "runtimeSpec": {"linux": {"namespaces":
            [{"type": "pid"}, {"type": "network", "path": "/var/run/netns/cni-1"}]}}, "more": []}"#;
        let (sandbox, why) = read(response(0, info));
        assert_eq!((why, sandbox.on_host), (None, false));
        assert_eq!(sandbox.netns, Some("/var/run/netns/cni-1".into()));
        assert_eq!((sandbox.pod.to_string().as_str(), sandbox.handler.as_str()), ("shop/web", "runc"));
        assert_eq!(sandbox.addresses.len(), 2);
        let (host, why) = read(response(NODE, info));
        assert!(host.netns.is_none() && host.on_host && why.is_none(), "on the node's network");
    }

    #[test]
    fn a_process_that_is_not_the_sandboxes_is_not_taken_for_it() {
        // This very one, as a pid of another namespace might be.
        let info = format!(r#"{{"pid": {}}}"#, std::process::id());
        for (info, reason) in [(&*info, "names no network namespace"), ("nonsense", "cannot be read")] {
            let (sandbox, why) = read(response(0, info));
            assert!(why.unwrap().contains(reason), "{info}");
            assert!(sandbox.netns.is_none() && !sandbox.on_host, "it is somewhere, and nobody says where");
        }
    }
}
