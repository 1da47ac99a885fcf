//! Pillion on a cluster, as a new user brings it there: its image on the nodes, and `helm install`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::Cluster;
use super::control_plane;

/// Where it is installed.
pub const NAMESPACE: &str = "pillion-system";

/// What is peculiar to these machines: only `/var` and `/run` are their own, both versions of cgroups are mounted, and a
/// machine's cgroup, in which its kubelet runs, is not the root of the hierarchy.
const VALUES: [&str; 4] = [
    "nri.pluginDir=/var/lib/nri/plugins",
    "nri.configDir=/var/lib/nri/conf.d",
    "hostPaths.cgroup=/sys/fs/cgroup/unified",
    "agent.extraArgs={--probes=attested}",
];

impl Cluster {
    /// Gives the image to every node and installs the chart, with these values besides; waits until every agent is ready.
    pub fn install_pillion(&self, image: &Path, values: &[&str]) -> Result<()> {
        self.import(image)?;
        let mut helm = self.helm(&["upgrade", "--install", "pillion"])?;
        helm.arg(chart()).args(["--create-namespace", "--wait", "--timeout=120s"]);
        for value in VALUES.iter().chain(values) {
            helm.args(["--set", value]);
        }
        self.machine_named(control_plane::NAME).run(&mut helm, "")?;
        // Helm is content before the first agent's pod is there.
        for what in ["daemonset/pillion", "deployment/pillion-ca"] {
            self.kubectl(&["--namespace", NAMESPACE, "rollout", "status", what, "--timeout=120s"], "")?;
        }
        Ok(())
    }

    /// `helm uninstall`, which waits until every agent has left its node.
    pub fn uninstall_pillion(&self) -> Result<()> {
        let mut helm = self.helm(&["uninstall", "pillion", "--wait", "--timeout=120s"])?;
        self.machine_named(control_plane::NAME).run(&mut helm, "").map(drop)
    }

    fn helm(&self, args: &[&str]) -> Result<Command> {
        let mut helm = self.command("helm")?;
        helm.args(args).args(["--namespace", NAMESPACE]);
        for (variable, dir) in [("CONFIG", "config"), ("CACHE", "cache"), ("DATA", "data")] {
            helm.env(format!("HELM_{variable}_HOME"), format!("/var/tmp/helm/{dir}"));
        }
        Ok(helm)
    }
}

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/pillion")
}
