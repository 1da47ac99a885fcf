//! What runs on the machine of the control plane: etcd, the API server, the controller manager, the scheduler.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::machine::Machine;
use super::network::{CONTROL_PLANE, SERVICES};
use super::pki::Pki;
use super::programs::Programs;

/// The machine's name.
pub(super) const NAME: &str = "cp";

/// For so many seconds a silent node counts as ready, and this is how long its lease is. Kubernetes's own 40 s are for
/// networks that lose packets; here it is two cores that may be busy.
pub(super) const GRACE_SECONDS: u32 = 20;

pub(super) struct ControlPlane<'a> {
    pub machine: &'a Machine,
    pub programs: &'a Programs,
    pub pki: &'a Pki,
}

impl ControlPlane<'_> {
    /// Starts etcd and the API server, and waits until that is ready.
    pub(super) fn start_api(&self) -> Result<()> {
        self.start("etcd")?;
        self.start("kube-apiserver")
    }

    /// Starts what works on the API's objects. Only once the API server is ready: before the roles are made, the
    /// controller manager is refused its configuration, and ends instead of trying again.
    pub(super) fn start_controllers(&self) -> Result<()> {
        self.start("kube-controller-manager")?;
        self.start("kube-scheduler")
    }

    /// Starts one of them, and waits until it works. etcd is not waited for: the API server does.
    pub(super) fn start(&self, program: &str) -> Result<()> {
        match program {
            "etcd" => self.start_etcd(),
            "kube-apiserver" => self.start_api_server(),
            "kube-controller-manager" => self.start_controller_manager(),
            "kube-scheduler" => self.start_scheduler(),
            other => bail!("no program of the control plane is called {other}"),
        }
    }

    fn start_etcd(&self) -> Result<()> {
        const LOCAL: [&str; 5] = [
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=default=http://127.0.0.1:2380",
        ];
        let mut etcd = Command::new(self.programs.path("etcd")?);
        // What is lost with the power of the real machine is a test's.
        etcd.args(["--data-dir=/var/lib/etcd", "--unsafe-no-fsync", "--log-level=warn"]).args(LOCAL);
        self.machine.start(&etcd)
    }

    fn start_api_server(&self) -> Result<()> {
        let mut api = Command::new(self.programs.path("kube-apiserver")?);
        api.args(self.api_flags());
        self.machine.start(&api)?;
        self.machine.wait_for("kube-apiserver", "the API server", || self.answers(6443, "/readyz"))
    }

    fn start_controller_manager(&self) -> Result<()> {
        let pki = |file: &str| self.pki.path(file);
        let mut manager = Command::new(self.programs.path("kube-controller-manager")?);
        manager.args(self.client_flags("kube-controller-manager")).args([
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
            format!("--node-monitor-grace-period={GRACE_SECONDS}s"),
            "--node-monitor-period=1s".to_owned(),
            "--use-service-account-credentials=true".to_owned(),
            format!("--root-ca-file={}", pki("ca.crt")),
            format!("--service-account-private-key-file={}", pki("sa.key")),
            format!("--cluster-signing-cert-file={}", pki("ca.crt")),
            format!("--cluster-signing-key-file={}", pki("ca.key")),
        ]);
        self.machine.start(&manager)?;
        // It has worked once it has made the first account; pods need that.
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        self.machine
            .wait_for("kube-controller-manager", "the controller manager", || self.answers(6443, account))
    }

    fn start_scheduler(&self) -> Result<()> {
        let mut scheduler = Command::new(self.programs.path("kube-scheduler")?);
        scheduler.args(self.client_flags("kube-scheduler"));
        self.machine.start(&scheduler)?;
        self.machine.wait_for("kube-scheduler", "the scheduler", || self.answers(10259, "/healthz"))
    }

    /// Whether the API server says that the node is ready.
    pub(super) fn node_is_ready(&self, node: &str) -> Result<bool> {
        Ok(self.object(&format!("/api/v1/nodes/{node}"))?.is_some_and(|node| is_ready(&node)))
    }

    /// When the node's kubelet was last heard of, in the API server's own words.
    pub(super) fn heard_of(&self, node: &str) -> Result<Option<Value>> {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}");
        Ok(self.object(&path)?.map(|lease| lease["spec"]["renewTime"].clone()))
    }

    fn object(&self, path: &str) -> Result<Option<Value>> {
        let said = self.get(6443, path)?;
        said.map(|said| serde_json::from_str(&said).context("the API server says no JSON")).transpose()
    }

    fn answers(&self, port: u16, path: &str) -> Result<bool> {
        Ok(self.get(port, path)?.is_some())
    }

    /// What a component answers with 200. (A kubectl costs ten times as much, and this is asked often.)
    fn get(&self, port: u16, path: &str) -> Result<Option<String>> {
        let url = format!("https://127.0.0.1:{port}{path}");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--insecure", "--max-time", "5"]);
        curl.args(["--cert", &self.pki.path("admin.crt"), "--key", &self.pki.path("admin.key"), &url]);
        let output = self.machine.output(&mut curl, "")?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    fn client_flags(&self, name: &str) -> Vec<String> {
        let config = self.pki.path(&format!("{name}.conf"));
        let mut flags = vec!["--leader-elect=false".to_owned(), "--bind-address=127.0.0.1".to_owned()];
        flags.extend(
            ["", "authentication-", "authorization-"].map(|kind| format!("--{kind}kubeconfig={config}")),
        );
        flags
    }

    fn api_flags(&self) -> Vec<String> {
        let files = [
            ("tls-cert-file", "apiserver.crt"),
            ("tls-private-key-file", "apiserver.key"),
            ("client-ca-file", "ca.crt"),
            ("kubelet-certificate-authority", "ca.crt"),
            ("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
            ("kubelet-client-key", "apiserver-kubelet-client.key"),
            ("requestheader-client-ca-file", "front-proxy-ca.crt"),
            ("proxy-client-cert-file", "front-proxy-client.crt"),
            ("proxy-client-key-file", "front-proxy-client.key"),
            ("service-account-signing-key-file", "sa.key"),
            ("service-account-key-file", "sa.pub"),
        ];
        let mut flags: Vec<String> =
            files.iter().map(|(flag, file)| format!("--{flag}={}", self.pki.path(file))).collect();
        flags.extend([
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            "--bind-address=0.0.0.0".to_owned(),
            "--secure-port=6443".to_owned(),
            format!("--advertise-address={CONTROL_PLANE}"),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--requestheader-allowed-names=front-proxy-client".to_owned(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
            "--requestheader-group-headers=X-Remote-Group".to_owned(),
            "--requestheader-username-headers=X-Remote-User".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged=true".to_owned(),
        ]);
        flags
    }
}

/// Whether the object of a node says that it is ready.
pub(super) fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}
