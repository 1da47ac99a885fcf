//! A sandbox, as NRI tells of it.

use super::messages::PodSandbox;
use crate::sandbox::{Sandbox, Told};

impl From<PodSandbox> for Sandbox {
    fn from(pod: PodSandbox) -> Self {
        // Whoever lists a pod's namespaces, and no network among them, says that the pod has none of its own. A runtime that
        // keeps the list to itself (Kata, containerd's other sandboxers) says nothing.
        let namespaces = pod.linux.map(|linux| linux.namespaces).unwrap_or_default();
        let is_listed = !namespaces.is_empty();
        let network = namespaces.into_iter().find(|namespace| namespace.kind == "network");
        let on_host = is_listed && network.is_none();
        Told {
            id: pod.id,
            namespace: pod.namespace,
            name: pod.name,
            uid: pod.uid,
            labels: pod.labels,
            annotations: pod.annotations,
            // A name without a path is a namespace that is to be made, which a sandbox that runs has not.
            netns: network.map(|network| network.path).filter(|path| path.starts_with('/')).map(Into::into),
            on_host,
            ips: pod.ips,
            handler: pod.runtime_handler,
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{LinuxNamespace, LinuxPodSandbox};
    use super::*;

    #[test]
    fn only_a_network_namespace_with_a_path_is_the_pods() {
        for (kind, path, expected) in [
            ("network", "/run/netns/a", Some("/run/netns/a")),
            ("network", "", None),
            ("ipc", "/run/ipc/a", None),
        ] {
            let is_host = kind == "ipc";
            let namespaces = vec![LinuxNamespace { kind: kind.into(), path: path.into() }];
            let linux = Some(LinuxPodSandbox { namespaces });
            let sandbox = Sandbox::from(PodSandbox { linux, ..PodSandbox::default() });
            assert_eq!(sandbox.netns, expected.map(Into::into), "{kind} {path:?}");
            assert_eq!(sandbox.on_host, is_host, "{kind} {path:?}");
        }
    }

    // proves: SEC-3
    #[test]
    fn a_runtime_that_lists_no_namespaces_does_not_say_that_a_pod_is_on_the_host_network() {
        for linux in [None, Some(LinuxPodSandbox { namespaces: vec![] })] {
            let sandbox = Sandbox::from(PodSandbox { linux, ..PodSandbox::default() });
            assert!(sandbox.netns.is_none() && !sandbox.on_host);
        }
    }
}
