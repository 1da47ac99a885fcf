//! Pods as a container runtime has them, whichever way it is asked: `nri` and `cri` make [`Call`]s, the node takes them.
//!
//! Nothing in here knows protocols, workers or the kernel.

#![forbid(unsafe_code)]

mod call;
mod foreign;

pub use call::{Answer, Call, Question};
pub use foreign::ForeignRuntimes;

use crate::manifest::CAPTURE;
use crate::mesh::{PodName, Workload};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// Bears the hash of a pod that the kubelet has from a file: its object in the API has another uid.
const STATIC_POD: &str = "kubernetes.io/config.hash";

/// A pod's sandbox: its namespaces are there, whether or not something runs in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The runtime's own name for it. A pod whose sandbox is made anew has another.
    pub id: String,
    pub pod: PodName,
    uid: String,
    is_static: bool,
    /// The path of the network namespace; none on the host network, and none where the runtime does not say it.
    pub netns: Option<PathBuf>,
    /// The runtime says that the pod is on the host network.
    #[serde(default)]
    pub on_host: bool,
    /// The pod's addresses; older runtimes do not say them.
    pub addresses: Vec<IpAddr>,
    /// Which of the runtime's handlers has made it: a RuntimeClass's, or empty for the default.
    pub handler: String,
    /// What the pod's own label says of capture, as it was when the sandbox was made.
    label: Option<bool>,
}

/// What a runtime says of a sandbox.
#[derive(Default)]
pub struct Told {
    pub id: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub labels: HashMap<String, String>,
    pub annotations: HashMap<String, String>,
    pub netns: Option<PathBuf>,
    pub on_host: bool,
    pub ips: Vec<String>,
    pub handler: String,
}

impl Sandbox {
    /// Whether the pod is to be in the mesh, as far as its own label and its namespace's say. A value that a label cannot
    /// have is no reason to run plain, and neither is a runtime that does not say where the pod's network is.
    pub fn opts_in(&self, namespace_is_captured: bool) -> bool {
        !self.on_host && self.label.unwrap_or(namespace_is_captured)
    }

    /// Whether this is that pod's, and not that of an earlier pod under the same name. Pods of manifests may have no uid;
    /// then their name is in its place.
    pub fn is_of(&self, workload: &Workload) -> bool {
        let by_name = self.is_static || workload.uid == workload.name.name;
        self.pod == workload.name && (by_name || self.uid == workload.uid)
    }
}

impl From<Told> for Sandbox {
    fn from(told: Told) -> Self {
        Self {
            id: told.id,
            pod: PodName { namespace: told.namespace, name: told.name },
            uid: told.uid,
            is_static: told.annotations.contains_key(STATIC_POD),
            netns: told.netns,
            on_host: told.on_host,
            addresses: told
                .ips
                .iter()
                .filter_map(|ip| Some(ip.parse::<IpAddr>().ok()?.to_canonical()))
                .collect(),
            handler: told.handler,
            label: told.labels.get(CAPTURE).map(|value| value != "disabled"),
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
            on_host: false,
            addresses: vec![[10, 0, 0, 9].into()],
            handler: String::new(),
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
    use super::*;

    fn sandbox(label: Option<&str>, netns: Option<&str>) -> Sandbox {
        Told {
            on_host: netns == Some("host"),
            labels: label.map(|value| (CAPTURE.to_owned(), value.to_owned())).into_iter().collect(),
            netns: netns.filter(|netns| *netns != "host").map(Into::into),
            ips: vec!["10.0.0.7".into(), "::ffff:10.0.0.8".into(), "nonsense".into()],
            ..Told::default()
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
            let sandbox = sandbox(label, Some("/run/netns/a"));
            assert_eq!(sandbox.opts_in(namespace), expected, "{label:?} {namespace}");
        }
    }

    #[test]
    fn a_pod_on_the_host_network_never_opts_in() {
        assert!(!sandbox(Some("enabled"), Some("host")).opts_in(true));
    }

    // proves: SEC-3
    #[test]
    fn a_pod_whose_network_the_runtime_does_not_name_opts_in_as_any_other() {
        assert!(sandbox(Some("enabled"), None).opts_in(false) && sandbox(None, None).opts_in(true));
        assert!(!sandbox(None, None).opts_in(false));
    }

    #[test]
    fn addresses_are_read_as_the_mesh_writes_them() {
        let addresses: [IpAddr; 2] = [[10, 0, 0, 7].into(), [10, 0, 0, 8].into()];
        assert_eq!(sandbox(None, None).addresses, addresses);
    }
}
