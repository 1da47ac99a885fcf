//! istiod: Istio's control plane, here as what it is to Pillion, a certificate authority. It needs an API server.
//!
//! It is built of the module `istio.io/istio`, by its name, from the Go module proxy. One of the modules that it requires,
//! `go-control-plane/contrib`, is replaced by `tests/peers/istiod/contribstub`: packages without content, which istiod needs only
//! to be there, because it knows Envoy's optional filters by name. Nothing of it concerns certificates.

use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::directory;
use crate::node::Node;
use crate::process::Process;
use crate::{go, once};

/// Names the directory of the build: the version that `tests/peers/istiod/go.mod` requires.
const VERSION: &str = "20260827124520-eed52ebb66ad";

/// Two busy cores need a while for it.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// It closes its connections first.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// How istiod is set up.
pub struct Options<'a> {
    /// How to reach the API server, as an administrator.
    pub kubeconfig: &'a Path,
    /// `CA_TRUSTED_NODE_ACCOUNTS`: who may ask for the service accounts of his node, `NS/NAME` joined by commas.
    pub trusted_node_accounts: &'a str,
}

/// A running istiod, on a node's network. It ends with the bed.
pub struct Istiod(Process);

impl Istiod {
    /// The name that its certificate is for, and the namespace in which it keeps its root.
    pub const HOST: &'static str = "istiod.istio-system.svc";
    pub const NAMESPACE: &'static str = "istio-system";
    /// Where it signs and serves xDS, with TLS.
    pub const PORT: u16 = 15012;
    /// Istio's default for the name of its own cluster.
    pub const CLUSTER_ID: &'static str = "Kubernetes";
    /// The ConfigMap with its root, which it makes in every namespace.
    pub const CONFIG_MAP: &'static str = "istio-ca-root-cert";

    /// Starts one and waits until it is ready. `dir` is where it looks for files of its own, which it does without.
    pub fn start(node: &Node, dir: &Path, options: &Options) -> Result<Self> {
        let command = node.command(&program()?.display().to_string()).current_dir(dir).args([
            "discovery".to_owned(),
            format!("--kubeconfig={}", options.kubeconfig.display()),
            format!("--clusterID={}", Self::CLUSTER_ID),
            format!("--secureGRPCAddr=0.0.0.0:{}", Self::PORT),
            "--grpcAddr=127.0.0.1:15010".to_owned(),
            "--httpAddr=127.0.0.1:8080".to_owned(),
            "--httpsAddr=".to_owned(),
            "--monitoringAddr=127.0.0.1:15014".to_owned(),
            "--ctrlz_port=0".to_owned(),
            "--meshConfig=none".to_owned(),
        ]);
        let environment = [
            ("POD_NAMESPACE", Self::NAMESPACE),
            ("POD_NAME", "istiod-0"),
            ("CA_TRUSTED_NODE_ACCOUNTS", options.trusted_node_accounts),
            ("PILOT_ENABLE_AMBIENT", "true"),
            ("PILOT_CERT_PROVIDER", "istiod"),
            // Its webhooks are no part of this.
            ("INJECTION_WEBHOOK_CONFIG_NAME", ""),
            ("VALIDATION_WEBHOOK_CONFIG_NAME", ""),
        ];
        let command = environment.iter().fold(command, |command, (name, value)| command.env(name, value));
        let istiod = command.log("istiod").start()?;
        istiod.wait_for("istiod to be ready", READY_WITHIN, || {
            let curl = node.command("curl").args(["-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}"]);
            let code = curl.arg("http://127.0.0.1:8080/ready").output()?.stdout;
            Ok((code == b"200").then_some(()))
        })?;
        Ok(Self(istiod))
    }

    /// SIGTERM, and waits for the end. Its root stays at the API server, for its successor.
    pub fn stop(&self) -> Result<()> {
        self.0.stop(STOP_WITHIN).map(drop)
    }

    /// What it logged: it tells why it refuses there, and not to whom it refuses.
    pub fn log(&self) -> String {
        self.0.log()
    }
}

/// `pilot-discovery`, built once, which takes about 13 minutes of CPU time, 0.65 GB of modules and 2.2 GB of Go's build cache.
pub fn program() -> Result<PathBuf> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let what = "building istiod, which takes about 13 minutes of CPU time,";
    let built = PROGRAM.get_or_init(|| {
        directory(&format!("istiod-{VERSION}"), what, build).map_err(|error| format!("{error:#}"))
    });
    built.clone().map(|dir| dir.join("pilot-discovery")).map_err(anyhow::Error::msg)
}

fn build(dir: &Path) -> Result<()> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/istiod");
    let requires = std::fs::read_to_string(module.join("go.mod")).context("no go.mod of istiod")?;
    ensure!(requires.contains(VERSION), "go.mod requires another version than {VERSION}");
    let go = go::program(&module, "istiod")?;
    once::run(
        process::Command::new(go)
            .current_dir(module)
            .env("CGO_ENABLED", "0")
            .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"])
            .arg(format!("{}/", dir.display()))
            .arg("istio.io/istio/pilot/cmd/pilot-discovery"),
    )
}
