//! A sandbox, as NRI tells of it.

use super::messages::PodSandbox;
use crate::sandbox::{Sandbox, Told};

impl From<PodSandbox> for Sandbox {
    fn from(pod: PodSandbox) -> Self {
        let namespaces = pod.linux.into_iter().flat_map(|linux| linux.namespaces);
        let network = namespaces.into_iter().find(|namespace| namespace.kind == "network");
        Told {
            id: pod.id,
            namespace: pod.namespace,
            name: pod.name,
            uid: pod.uid,
            labels: pod.labels,
            annotations: pod.annotations,
            // A name without a path is a namespace that is to be made, which a sandbox that runs has not.
            netns: network.map(|network| network.path).filter(|path| path.starts_with('/')).map(Into::into),
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
            let namespaces = vec![LinuxNamespace { kind: kind.into(), path: path.into() }];
            let linux = Some(LinuxPodSandbox { namespaces });
            let sandbox = Sandbox::from(PodSandbox { linux, ..PodSandbox::default() });
            assert_eq!(sandbox.netns, expected.map(Into::into), "{kind} {path:?}");
        }
    }
}
