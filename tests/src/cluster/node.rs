//! What runs on the machine of a node: containerd, the kubelet, kube-proxy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::control_plane::{ControlPlane, GRACE_SECONDS};
use super::images::SANDBOX;
use super::machine::Machine;
use super::network::{self, DNS_SERVICE, PODS};
use super::pki::Pki;
use super::programs::Programs;

/// A second handler of the runtime, by the name of one whose pods have their sockets elsewhere. It is runc, too.
pub const FOREIGN: &str = "runsc";

/// The names of nodes, in the order of their numbers.
pub(super) fn names(count: u8) -> Vec<String> {
    (1..=count).map(|number| format!("node{number}")).collect()
}

pub(super) struct Node<'a> {
    pub number: u8,
    pub machine: &'a Machine,
    pub programs: &'a Programs,
    pub pki: &'a Pki,
}

impl Node<'_> {
    /// Starts containerd and gives it the images, which needs no API server.
    pub(super) fn start_runtime(&self, images: &Path) -> Result<()> {
        self.start_containerd()?;
        self.import(images)
    }

    pub(super) fn start_containerd(&self) -> Result<()> {
        self.write("cni/10-bridge.conflist", &self.cni().to_string())?;
        let config = self.write("containerd.toml", &self.containerd()?)?;
        let mut containerd = Command::new(self.programs.path("containerd")?);
        // It runs the shim, runc and the CNI plugins' nft.
        containerd.env("PATH", self.programs.search_path()?).arg("--config").arg(config);
        self.machine.start(&containerd)?;
        self.machine.wait_for("containerd", "containerd", || {
            Ok(self.machine.output(&mut self.ctr(&["version"])?, "")?.status.success())
        })
    }

    pub(super) fn import(&self, images: &Path) -> Result<()> {
        let mut import = self.ctr(&["--namespace=k8s.io", "images", "import"])?;
        self.machine.run(import.arg(images), "").map(drop)
    }

    /// Starts the kubelet and kube-proxy, and waits until the API server says that the node is ready.
    pub(super) fn join(&self, control_plane: &ControlPlane) -> Result<()> {
        self.start_kubelet(control_plane)?;
        self.start_proxy()
    }

    /// Starts one of its programs, and waits until it works.
    pub(super) fn start(&self, program: &str, control_plane: &ControlPlane) -> Result<()> {
        match program {
            "containerd" => self.start_containerd(),
            "kubelet" => self.start_kubelet(control_plane),
            "kube-proxy" => self.start_proxy(),
            other => bail!("no program of a node is called {other}"),
        }
    }

    fn start_kubelet(&self, control_plane: &ControlPlane) -> Result<()> {
        self.write("resolv.conf", "")?;
        let (name, path) = (self.machine.name(), self.programs.search_path()?);
        let heard_before = control_plane.heard_of(name)?;
        let mut kubelet = Command::new(self.programs.path("kubelet")?);
        kubelet.env("PATH", path);
        kubelet.arg("--config").arg(self.write("kubelet.yaml", &self.kubelet().to_string())?);
        kubelet.arg(format!("--kubeconfig={}", self.pki.path(&format!("{name}.conf"))));
        kubelet.arg(format!("--hostname-override={name}"));
        kubelet.arg(format!("--node-ip={}", network::node(self.number)));
        self.machine.start(&kubelet)?;
        self.machine.wait_for("kubelet", "the kubelet", || {
            // A node that was off for a moment only counts as ready still.
            let is_new = heard_before.is_none() || control_plane.heard_of(name)? != heard_before;
            Ok(is_new && control_plane.node_is_ready(name)?)
        })
    }

    fn start_proxy(&self) -> Result<()> {
        let mut proxy = Command::new(self.programs.path("kube-proxy")?);
        proxy.env("PATH", self.programs.search_path()?);
        proxy.arg("--config").arg(self.write("kube-proxy.yaml", &self.proxy().to_string())?);
        self.machine.start(&proxy)?;
        self.machine.wait_for("kube-proxy", "kube-proxy", || {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--fail", "--max-time", "5", "http://127.0.0.1:10256/healthz"]);
            Ok(self.machine.output(&mut curl, "")?.status.success())
        })
    }

    fn ctr(&self, args: &[&str]) -> Result<Command> {
        let mut ctr = Command::new(self.programs.path("ctr")?);
        ctr.args(args);
        Ok(ctr)
    }

    /// Writes a file of the machine's configuration.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.etc(name);
        let write = || {
            fs::create_dir_all(file.parent().unwrap_or(&file))?;
            fs::write(&file, text)
        };
        write().with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }

    fn etc(&self, name: &str) -> PathBuf {
        self.machine.dir().join("etc").join(name)
    }

    fn cni(&self) -> Value {
        json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true,
             "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": network::pods(self.number)}]]}},
            {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}},
        ]})
    }

    /// With NRI on. A plugin that containerd shall start itself, as a node image has it, goes to the machine's disk.
    fn containerd(&self) -> Result<String> {
        Ok(format!(
            "version = 3
root = '/var/lib/containerd'
state = '/run/containerd'
[grpc]
  address = '/run/containerd/containerd.sock'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{SANDBOX}'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['{plugins}']
  conf_dir = '{cni}'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    BinaryName = '{runc}'
    SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.{FOREIGN}]
  runtime_type = 'io.containerd.runc.v2'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.{FOREIGN}.options]
    BinaryName = '{runc}'
    SystemdCgroup = false
[plugins.'io.containerd.nri.v1.nri']
  disable = false
  socket_path = '/var/run/nri/nri.sock'
  plugin_path = '/var/lib/nri/plugins'
  plugin_config_path = '/var/lib/nri/conf.d'
",
            plugins = self.programs.dir_of("bridge")?.display(),
            cni = self.etc("cni").display(),
            runc = self.programs.path("runc")?.display(),
        ))
    }

    /// Nothing is evicted for want of disk: the disk is the real machine's, and others fill it.
    fn kubelet(&self) -> Value {
        let name = self.machine.name();
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false}, "webhook": {"enabled": true},
                "x509": {"clientCAFile": self.pki.path("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": self.pki.path(&format!("{name}.crt")),
            "tlsPrivateKeyFile": self.pki.path(&format!("{name}.key")),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": false,
            "failSwapOn": false,
            "nodeLeaseDurationSeconds": GRACE_SECONDS,
            "makeIPTablesUtilChains": false,
            "resolvConf": self.etc("resolv.conf"),
            "clusterDomain": "cluster.local",
            "clusterDNS": [DNS_SERVICE],
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
        })
    }

    /// The limits of connection tracking are the whole kernel's, and not ours to set.
    fn proxy(&self) -> Value {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": self.pki.path("kube-proxy.conf")},
            "clusterCIDR": PODS,
            "hostnameOverride": self.machine.name(),
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        })
    }
}
