//! A pod as the container runtime knows it.

use super::messages::PodSandbox;
use crate::manifest::CAPTURE;
use crate::mesh::{PodName, Workload};
use std::net::IpAddr;
use std::path::PathBuf;

/// Bears the hash of a pod that the kubelet has from a file: its object in the API has another uid.
const STATIC_POD: &str = "kubernetes.io/config.hash";

/// A pod's sandbox: its namespaces are there, whether or not something runs in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's own name for it. A pod whose sandbox is made anew has another.
    pub id: String,
    pub pod: PodName,
    uid: String,
    is_static: bool,
    /// The path of the network namespace; none on the host network.
    pub netns: Option<PathBuf>,
    /// The pod's addresses; older runtimes do not say them.
    pub addresses: Vec<IpAddr>,
    /// What the pod's own label says of capture, as it was when the sandbox was made.
    label: Option<bool>,
}

impl Sandbox {
    /// Whether the pod is to be in the mesh, as far as its own label and its namespace's say. A value that a label cannot
    /// have is no reason to run plain.
    pub fn opts_in(&self, namespace_is_captured: bool) -> bool {
        self.netns.is_some() && self.label.unwrap_or(namespace_is_captured)
    }

    /// Whether this is that pod's, and not that of an earlier pod under the same name. Pods of manifests may have no uid;
    /// then their name is in its place.
    pub fn is_of(&self, workload: &Workload) -> bool {
        let by_name = self.is_static || workload.uid == workload.name.name;
        self.pod == workload.name && (by_name || self.uid == workload.uid)
    }
}

impl From<PodSandbox> for Sandbox {
    fn from(pod: PodSandbox) -> Self {
        let namespaces = pod.linux.into_iter().flat_map(|linux| linux.namespaces);
        let network = namespaces.into_iter().find(|namespace| namespace.kind == "network");
        Self {
            id: pod.id,
            pod: PodName { namespace: pod.namespace, name: pod.name },
            uid: pod.uid,
            is_static: pod.annotations.contains_key(STATIC_POD),
            netns: network.map(|network| network.path).filter(|path| path.starts_with('/')).map(Into::into),
            addresses: pod
                .ips
                .iter()
                .filter_map(|ip| Some(ip.parse::<IpAddr>().ok()?.to_canonical()))
                .collect(),
            label: pod.labels.get(CAPTURE).map(|value| value != "disabled"),
        }
    }
}

#[cfg(test)]
impl Sandbox {
    /// A labelled pod's, in the namespace "shop".
    pub fn of_test(id: &str, name: &str) -> Self {
        Self {
            id: id.into(),
            pod: PodName { namespace: "shop".into(), name: name.into() },
            uid: format!("uid-{name}"),
            is_static: false,
            netns: Some(format!("/run/netns/{id}").into()),
            addresses: vec![[10, 0, 0, 9].into()],
            label: Some(true),
        }
    }

    pub fn without_label(mut self) -> Self {
        self.label = None;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{LinuxNamespace, LinuxPodSandbox};
    use super::*;

    fn sandbox(label: Option<&str>, netns: &str) -> Sandbox {
        let network = LinuxNamespace { kind: "network".into(), path: netns.into() };
        PodSandbox {
            labels: label.map(|value| (CAPTURE.to_owned(), value.to_owned())).into_iter().collect(),
            linux: Some(LinuxPodSandbox { namespaces: vec![network] }),
            ips: vec!["10.0.0.7".into(), "::ffff:10.0.0.8".into(), "nonsense".into()],
            ..PodSandbox::default()
        }
        .into()
    }

    #[test]
    fn a_pod_opts_in_by_its_label_or_its_namespaces() {
        for (label, namespace, expected) in [
            (Some("enabled"), false, true),
            (Some("disabled"), true, false),
            (Some("perhaps"), false, true),
            (None, true, true),
            (None, false, false),
        ] {
            assert_eq!(sandbox(label, "/run/netns/a").opts_in(namespace), expected, "{label:?} {namespace}");
        }
    }

    #[test]
    fn a_pod_on_the_host_network_never_opts_in() {
        assert!(!sandbox(Some("enabled"), "").opts_in(true));
    }

    #[test]
    fn addresses_are_read_as_the_mesh_writes_them() {
        let addresses: [IpAddr; 2] = [[10, 0, 0, 7].into(), [10, 0, 0, 8].into()];
        assert_eq!(sandbox(None, "/run/netns/a").addresses, addresses);
    }
}
