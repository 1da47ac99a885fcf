//! A cluster with Pillion, and what is asked of it again and again.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pillion_tests::cluster::pillion::NAMESPACE;
use pillion_tests::cluster::{Standing, load_image};
use pillion_tests::metrics::Metrics;
use pillion_tests::{requirements, wait};
use serde_json::Value;

/// A label that brings a pod or a namespace into the mesh.
pub const LABEL: &str = "pillion.dev/capture=enabled";

pub struct Deployed {
    pub standing: Standing,
}

impl Deployed {
    /// A cluster without Pillion, whose nodes have the load generator's image.
    pub fn bare() -> Result<Self> {
        requirements::ensure(&["tcpdump"])?;
        let standing = Standing::begin()?;
        standing.cluster.import(&load_image()?)?;
        Ok(Self { standing })
    }

    pub fn install(&self, values: &[&str]) -> Result<()> {
        self.standing.cluster.install_pillion(&image()?, values)?;
        self.standing.say("Pillion is installed");
        Ok(())
    }

    /// What the agent of a node counts.
    pub fn metrics(&self, node: &str) -> Result<Metrics> {
        Metrics::parse(&self.fetch(node, "http://127.0.0.1:15020/metrics")?)
    }

    pub fn config_dump(&self, node: &str) -> Result<Value> {
        let said = self.fetch(node, "http://127.0.0.1:15000/config_dump")?;
        serde_json::from_str(&said).context("/config_dump is not JSON")
    }

    fn fetch(&self, node: &str, url: &str) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "5", url]);
        self.standing.cluster.machine(node)?.run(&mut curl, "")
    }

    /// Waits until the worker of a pod of the default namespace serves (or until there is none).
    pub fn captured(&self, node: &str, pod: &str, is: bool) -> Result<()> {
        let what = format!("{pod} to be {} the mesh", if is { "in" } else { "out of" });
        let waited = wait::until_every(Duration::from_millis(50), &what, Duration::from_secs(20), || {
            let dump = self.config_dump(node)?;
            let workers = dump["workers"].as_array().context("/config_dump has no workers")?;
            let there =
                workers.iter().find(|worker| worker["namespace"] == "default" && worker["pod"] == pod);
            let done = there.map_or(!is, |worker| is && worker["state"] == "serving");
            Ok(done.then_some(()))
        });
        waited.with_context(|| format!("the agent of {node} says: {}", self.log_of_agent(node)))
    }

    pub fn log_of_agent(&self, node: &str) -> String {
        let log = |agent: &String| {
            self.standing.kubectl(&["--namespace", NAMESPACE, "logs", "--tail=30", agent], "")
        };
        self.agent(node).and_then(|agent| log(&agent)).unwrap_or_else(|e| format!("nothing: {e:#}"))
    }

    /// Waits until the node's agent serves what it should.
    pub fn agent_is_ready(&self, node: &str) -> Result<()> {
        let what = format!("the agent of {node}");
        let mut said = String::new();
        let waited = wait::until_every(Duration::from_millis(100), &what, Duration::from_secs(60), || {
            // Whatever it answers, and also when nobody does.
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--max-time", "5", "http://127.0.0.1:15021/healthz/ready"]);
            let output = self.standing.cluster.machine(node)?.output(&mut curl, "")?;
            said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            Ok((said.lines().next() == Some("ready")).then_some(()))
        });
        waited.with_context(|| {
            format!("the agent of {node} waits for {said:?} and says: {}", self.log_of_agent(node))
        })
    }

    /// The name of the agent's pod on a node.
    pub fn agent(&self, node: &str) -> Result<String> {
        let field = format!("--field-selector=spec.nodeName={node}");
        let what = ["pods", "--namespace", NAMESPACE, "--selector=app.kubernetes.io/name=pillion", &field];
        let names = self.standing.get(&what, "{.items[*].metadata.name}")?;
        ensure!(!names.is_empty() && !names.contains(' '), "these agents are on {node}: {names:?}");
        Ok(names)
    }

    /// One request of a pod's; what the server said.
    pub fn ask(&self, pod: &str, url: &str) -> Result<String> {
        // Debian's static busybox ends with a segmentation fault where wget itself has the limit (-T).
        self.standing.exec(pod, &["timeout", "10", "wget", "-qO-", url])
    }

    /// Begins a program in a pod, which goes on by itself: not even the API server has to stay for it.
    pub fn begin(&self, pod: &str, command: &[&str]) -> Result<Begun<'_>> {
        static BEGUN: AtomicUsize = AtomicUsize::new(0);
        let file = format!("/tmp/begun-{}", BEGUN.fetch_add(1, Ordering::Relaxed));
        let script = format!("({}; echo $? > {file}.status) > {file} 2>&1 &", command.join(" "));
        self.standing.exec(pod, &["sh", "-c", &script])?;
        Ok(Begun { deployed: self, pod: pod.to_owned(), file })
    }
}

/// A program in a pod.
pub struct Begun<'a> {
    deployed: &'a Deployed,
    pod: String,
    file: String,
}

impl Begun<'_> {
    /// Waits for its end; gives what it has said.
    pub fn finish(self, within: Duration) -> Result<String> {
        let standing = &self.deployed.standing;
        let read = |file: &str| standing.exec(&self.pod, &["cat", file]);
        let what = format!("the end of a program in {}", self.pod);
        let status = wait::until_every(Duration::from_millis(300), &what, within, || {
            // There is none yet, or the kubelet is away.
            Ok(read(&format!("{}.status", self.file)).ok().filter(|status| !status.is_empty()))
        })?;
        let said = read(&self.file)?;
        ensure!(status == "0", "it ended with status {status}: {said}");
        Ok(said)
    }
}

/// The image that is installed: the one that `cargo xtask test` has built, or the one that is built now.
fn image() -> Result<PathBuf> {
    env::var_os("PILLION_IMAGE").map(PathBuf::from).context(
        "PILLION_IMAGE names no image: `cargo xtask image` writes one, and `cargo xtask test` names it to this test",
    )
}

/// How often something is done, or how long: this much, or what the variable says.
pub fn extent(variable: &str, default: usize) -> Result<usize> {
    env::var(variable).map_or(Ok(default), |number| number.parse().with_context(|| variable.to_owned()))
}
