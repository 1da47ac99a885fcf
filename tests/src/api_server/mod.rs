//! A real API server on a node of the bed: etcd and kube-apiserver, with no kubelet, controller or scheduler. What a cluster
//! would do to objects, tests do.

mod pki;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::node::Node;
use crate::process::{Command, Process};
use crate::wait;

/// Two busy cores need a while for it.
const READY_WITHIN: Duration = Duration::from_secs(90);

const ETCD: [&str; 7] = [
    "--unsafe-no-fsync",
    "--log-level=warn",
    "--listen-client-urls=http://127.0.0.1:2379",
    "--advertise-client-urls=http://127.0.0.1:2379",
    "--listen-peer-urls=http://127.0.0.1:2380",
    "--initial-advertise-peer-urls=http://127.0.0.1:2380",
    "--initial-cluster=default=http://127.0.0.1:2380",
];

/// A running API server. It ends with the bed.
pub struct ApiServer {
    node: Node,
    programs: PathBuf,
    dir: PathBuf,
    flags: Vec<String>,
    etcd: Process,
    server: Mutex<Option<Process>>,
}

impl ApiServer {
    /// Starts one on the node and waits until it is ready. `flags` are added to its own.
    pub fn start(bed: &Bed, node: &Node, flags: &[&str]) -> Result<Self> {
        let programs = programs()?;
        let dir = bed.dir().join("api-server");
        fs::create_dir_all(&dir)?;
        pki::write(&dir)?;
        let etcd = node.command(&programs.join("etcd").display().to_string());
        let etcd = etcd.args(ETCD).arg("--data-dir").arg(dir.join("etcd")).log("etcd").start()?;
        etcd.wait_listening(2379)?;
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let api = Self { node: node.clone(), programs, dir, flags, etcd, server: Mutex::default() };
        api.restart()?;
        Ok(api)
    }

    /// How an administrator of the cluster reaches it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join(pki::KUBECONFIG)
    }

    /// A client program on its node, as an administrator: kubectl or helm.
    pub fn client(&self, program: &Path) -> Command {
        self.node.command(&program.display().to_string()).env("KUBECONFIG", self.kubeconfig())
    }

    /// What kubectl says, with this as its standard input.
    pub fn kubectl(&self, args: &[&str], input: &str) -> Result<String> {
        self.client(&self.programs.join("kubectl")).args(args).input(input).run()
    }

    /// What kubectl says and what it warns of.
    pub fn kubectl_warned(&self, args: &[&str], input: &str) -> Result<String> {
        let output = self.client(&self.programs.join("kubectl")).args(args).input(input).output()?;
        let said = format!("{}{}", output.stderr, String::from_utf8_lossy(&output.stdout));
        ensure!(output.status.success(), "kubectl {args:?} ended with {}\n{said}", output.status);
        Ok(said)
    }

    /// Ends the API server, if it runs, as a crash does (told to end, it waits a minute for its watches); what etcd has stays.
    pub fn kill(&self) -> Result<()> {
        match self.server.lock().expect("no holder panics").take() {
            Some(server) => server.kill(),
            None => Ok(()),
        }
    }

    /// Starts the API server anew and waits until it is ready.
    pub fn restart(&self) -> Result<()> {
        self.kill()?;
        let file = |name: &str| self.dir.join(name).display().to_string();
        let server = self.node.command(&self.programs.join("kube-apiserver").display().to_string()).args([
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--secure-port=6443".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            // Pods are made here without the accounts that a controller would have made.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ]);
        let server = server.args(&self.flags).log("kube-apiserver").start()?;
        server.wait_for("the API server to be ready", READY_WITHIN, || {
            Ok(self.curl("GET", "/readyz", None)?.0.eq(&200).then_some(()))
        })?;
        *self.server.lock().expect("no holder panics") = Some(server);
        Ok(())
    }

    /// Makes an object what it is given, by server-side apply; `path` is the object's own.
    pub fn apply(&self, path: &str, object: &Value) -> Result<()> {
        let path = format!("{path}?fieldManager=tests&force=true");
        match self.curl("PATCH", &path, Some(object))? {
            (200 | 201, _) => Ok(()),
            (code, said) => bail!("PATCH {path}: {code}: {said}"),
        }
    }

    /// An object, or a list.
    pub fn get(&self, path: &str) -> Result<Value> {
        match self.curl("GET", path, None)? {
            (200, said) => serde_json::from_str(&said).context("the API server answered no JSON"),
            (code, said) => bail!("GET {path}: {code}: {said}"),
        }
    }

    /// Deletes an object, at once.
    pub fn delete(&self, path: &str) -> Result<()> {
        match self.curl("DELETE", &format!("{path}?gracePeriodSeconds=0"), None)? {
            (200 | 202, _) => Ok(()),
            (code, said) => bail!("DELETE {path}: {code}: {said}"),
        }
    }

    /// An object as it is; `None` where there is none.
    pub fn find(&self, path: &str) -> Result<Option<Value>> {
        match self.curl("GET", path, None)? {
            (200, said) => Ok(Some(serde_json::from_str(&said)?)),
            (404, _) => Ok(None),
            (code, said) => bail!("GET {path}: {code}: {said}"),
        }
    }

    /// Makes an object in a collection, or has a question answered; gives what the API server makes of it.
    pub fn post(&self, path: &str, object: &Value) -> Result<Value> {
        match self.curl("POST", path, Some(object))? {
            (200 | 201, said) => Ok(serde_json::from_str(&said)?),
            (code, said) => bail!("POST {path}: {code}: {said}"),
        }
    }

    /// Makes the kinds of Istio's policies known, and waits until they are served. Nothing checks what is written into them.
    pub fn add_policy_kinds(&self) -> Result<()> {
        for (kind, plural) in
            [("PeerAuthentication", "peerauthentications"), ("AuthorizationPolicy", "authorizationpolicies")]
        {
            let name = format!("{plural}.security.istio.io");
            let condition = json!({"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}},
                "x-kubernetes-preserve-unknown-fields": true});
            let conditions = json!({"type": "array", "items": condition,
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]});
            let status = json!({"type": "object", "properties": {"conditions": conditions},
                "x-kubernetes-preserve-unknown-fields": true});
            let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"status": status},
                "x-kubernetes-preserve-unknown-fields": true}});
            self.apply(
                &format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"),
                &json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                    "metadata": {"name": name},
                    "spec": {"group": "security.istio.io", "scope": "Namespaced",
                        "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
                        "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema,
                            "subresources": {"status": {}}}]}}),
            )?;
            let path = format!("/apis/security.istio.io/v1/{plural}");
            wait::until("the API server to serve a new kind", READY_WITHIN, || {
                Ok((self.curl("GET", &path, None)?.0 == 200).then_some(()))
            })?;
        }
        Ok(())
    }

    /// The status code and the body of an answer; 0 where there is none.
    fn curl(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, String)> {
        ensure!(self.etcd.exited().is_none(), "etcd has ended: {}", self.etcd.log());
        let mut curl =
            self.node.command("curl").args(["-s", "-m", "20", "-X", method, "-w", "\n%{http_code}"]);
        curl = curl.arg("--cacert").arg(self.dir.join("ca.crt"));
        curl = curl.args(["-H", &format!("Authorization: Bearer {}", pki::TOKEN)]);
        if let Some(body) = body {
            let kind = if method == "PATCH" { "application/apply-patch+yaml" } else { "application/json" };
            curl = curl.args(["-H", &format!("Content-Type: {kind}"), "--data-binary", "@-"]);
            curl = curl.input(body.to_string());
        }
        let output = curl.arg(format!("https://127.0.0.1:6443{path}")).output()?;
        let said = String::from_utf8(output.stdout)?;
        let (body, code) = said.rsplit_once('\n').context("curl tells the status code last")?;
        Ok((code.parse()?, body.to_owned()))
    }
}

/// The directory of `etcd` and `kube-apiserver`: what `PILLION_KUBE_BIN` says, or what the cluster's build left.
fn programs() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("PILLION_KUBE_BIN") {
        return Ok(dir.into());
    }
    let kube = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kube");
    let built = fs::read_dir(&kube).into_iter().flatten().flatten().map(|entry| entry.path());
    let has_both = |dir: &PathBuf| ["etcd", "kube-apiserver"].iter().all(|name| dir.join(name).is_file());
    built.filter(has_both).max().with_context(|| {
        format!(
            "no etcd and kube-apiserver in {}: `cargo xtask cluster build` makes them, once, in minutes; or PILLION_KUBE_BIN \
             names a directory that has them",
            kube.display()
        )
    })
}
