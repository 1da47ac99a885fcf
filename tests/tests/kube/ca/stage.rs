//! An API server, an authority, and pods that are only said to run.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use pillion_tests::{ApiServer, Bed, Node, Process, wait};
use serde_json::{Value, json};

use super::ask::{Issued, Question, ask};

const WITHIN: Duration = Duration::from_secs(30);
pub const HOST: &str = "pillion-ca.pillion-system.svc";
pub const SECRET: &str = "/api/v1/namespaces/pillion-system/secrets/pillion-ca";
pub const CONFIG_MAP: &str = "/api/v1/namespaces/pillion-system/configmaps/pillion-ca-root-cert";

/// The authority's own ports: the defaults are the agent's, on a node.
const OWN_PORTS: [&str; 2] = ["--metrics-addr=127.0.0.1:25020", "--health-addr=127.0.0.1:25021"];

pub struct Stage {
    pub api: ApiServer,
    pub node: Node,
    ca: Mutex<Option<Process>>,
    args: Vec<String>,
    pub bed: Bed,
}

impl Stage {
    /// With an authority that is ready.
    pub fn new(name: &str) -> Result<Self> {
        let stage = Self::without_authority(name)?;
        stage.start(&[])?;
        Ok(stage)
    }

    pub fn without_authority(name: &str) -> Result<Self> {
        let bed = Bed::new(name)?;
        let node = bed.node("n1")?;
        let api = ApiServer::start(&bed, &node, &[])?;
        for namespace in ["pillion-system", "shop"] {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            api.apply(&format!("/api/v1/namespaces/{namespace}"), &object)?;
        }
        let args = [
            format!("--kubeconfig={}", api.kubeconfig().display()),
            "--node-account=pillion-system/pillion".to_owned(),
        ];
        let args = args.into_iter().chain(OWN_PORTS.map(str::to_owned)).collect();
        Ok(Self { api, node, ca: Mutex::default(), args, bed })
    }

    /// Starts the authority anew, and waits until it is ready.
    pub fn start(&self, more: &[&str]) -> Result<()> {
        let command = self.node.ca_command_with(["serve"])?.args(&self.args).args(more).log("ca");
        let process = command.start()?;
        process
            .wait_for("the authority to be ready", WITHIN, || Ok((self.health()?.0 == 200).then_some(())))?;
        *self.ca.lock().expect("no holder panics") = Some(process);
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&self) -> Result<()> {
        let process = self.ca.lock().expect("no holder panics").take().context("it does not run")?;
        let status = process.stop(WITHIN)?;
        anyhow::ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    pub fn log(&self) -> String {
        self.ca.lock().expect("no holder panics").as_ref().map(Process::log).unwrap_or_default()
    }

    /// The status of `/healthz/ready`, and what it says; 0 while nobody listens.
    pub fn health(&self) -> Result<(u16, String)> {
        self.curl("25021/healthz/ready")
    }

    pub fn metrics(&self) -> Result<String> {
        Ok(self.curl("25020/metrics")?.1)
    }

    fn curl(&self, what: &str) -> Result<(u16, String)> {
        let curl = self.node.command("curl").args(["-s", "-m", "5", "-w", "\n%{http_code}"]);
        let said = curl.arg(format!("http://127.0.0.1:{what}")).output()?.stdout;
        let said = String::from_utf8(said)?;
        let (body, code) = said.rsplit_once('\n').context("curl tells the status code last")?;
        Ok((code.parse()?, body.to_owned()))
    }

    /// `pillion ca … --secret`; gives what it says.
    pub fn operate(&self, args: &[&str]) -> Result<String> {
        let kubeconfig = format!("--kubeconfig={}", self.api.kubeconfig().display());
        self.node.ca_command_with(args)?.args(["--secret=pillion-system/pillion-ca", &kubeconfig]).run()
    }

    /// Makes a pod that runs on that node, and its service account; gives its uid.
    pub fn pod(&self, namespace: &str, name: &str, account: &str, node: &str) -> Result<String> {
        self.account(namespace, account)?;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let spec = json!({"nodeName": node, "serviceAccountName": account,
            "automountServiceAccountToken": false, "containers": [{"name": "app", "image": "app"}]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        self.api.apply(&path, &pod)?;
        self.phase(namespace, name, "Running")?;
        let pod = self.api.get(&path)?;
        Ok(pod["metadata"]["uid"].as_str().context("a pod without uid")?.to_owned())
    }

    /// What a kubelet writes.
    pub fn phase(&self, namespace: &str, name: &str, phase: &str) -> Result<()> {
        let status = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "status": {"phase": phase}});
        self.api.apply(&format!("/api/v1/namespaces/{namespace}/pods/{name}/status"), &status)
    }

    pub fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        self.api.delete(&format!("/api/v1/namespaces/{namespace}/pods/{name}"))
    }

    fn account(&self, namespace: &str, name: &str) -> Result<()> {
        let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        self.api.apply(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}"), &object)
    }

    /// A token as a kubelet asks for it, or one that is bound to no pod.
    pub fn token(
        &self,
        (namespace, account): (&str, &str),
        audience: &str,
        pod: Option<(&str, &str)>,
    ) -> Result<String> {
        self.account(namespace, account)?;
        let mut spec = json!({"audiences": [audience], "expirationSeconds": 3600});
        if let Some((name, uid)) = pod {
            spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
        }
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.api.post(&path, &request)?;
        Ok(answer["status"]["token"].as_str().context("no token")?.to_owned())
    }

    /// The pod of an agent on that node, and its token.
    pub fn agent(&self, name: &str, node: &str) -> Result<String> {
        let uid = self.pod("pillion-system", name, "pillion", node)?;
        self.token(("pillion-system", "pillion"), "istio-ca", Some((name, &uid)))
    }

    /// Asks the authority for a certificate of an hour.
    pub fn ask(&self, token: &str, identity: Option<&str>) -> Result<Issued> {
        self.ask_for(&Question { token: Some(token), identity, seconds: 3600, ..Question::default() })
    }

    pub fn ask_for(&self, question: &Question) -> Result<Issued> {
        let roots = self.published("root-cert.pem")?;
        self.node.visit(|| ask(HOST, question, &roots))
    }

    /// A text of the ConfigMap.
    pub fn published(&self, key: &str) -> Result<String> {
        wait::until("the ConfigMap", WITHIN, || {
            let map = self.api.find(CONFIG_MAP)?;
            Ok(map.and_then(|map| map["data"][key].as_str().map(str::to_owned)))
        })
    }

    /// Waits until the ConfigMap has so many roots.
    pub fn wait_roots(&self, count: usize) -> Result<String> {
        wait::until(&format!("{count} published roots"), WITHIN, || {
            let roots = self.published("root-cert.pem")?;
            Ok((roots.matches("BEGIN CERTIFICATE").count() == count).then_some(roots))
        })
    }

    pub fn object(&self, path: &str) -> Result<Value> {
        self.api.get(path)
    }
}
