//! A machine with a container runtime and an agent, and no Kubernetes: the test is the kubelet, and writes the manifests.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Cluster;
use super::images;
use super::machine::Machine;
use super::node::Node;
use super::pki::Pki;
use super::programs::Programs;
use crate::cri::{Cri, PodSpec};
use crate::metrics::Metrics;
use crate::process::tail;
use crate::{agent, once, wait};

/// The name of its node, and of its network's number.
const NODE: (&str, u8) = ("node1", 1);

/// The runtime's folder of NRI plugins, and that of their configurations, on its disk.
pub const PLUGIN_DIR: &str = "/var/lib/nri/plugins";
pub const CONFIG_DIR: &str = "/var/lib/nri/conf.d";

const CRI_SOCKET: &str = "/run/containerd/containerd.sock";

/// Who holds the lock of this ending owns the machine of that name.
const LOCK: &str = ".lock";

const READY_WITHIN: Duration = Duration::from_secs(60);

/// Dropping it ends it, with all that it made.
pub struct LoneNode {
    machine: Machine,
    programs: Programs,
    pki: Pki,
    dir: PathBuf,
    agent: Mutex<Option<Child>>,
    /// Locked for as long as this lives.
    _owner: File,
}

impl LoneNode {
    /// Begins one with containerd on it. What one of that name has left is removed; one that lives is waited for.
    pub fn up(name: &str) -> Result<Self> {
        let programs = Programs::build()?;
        let cluster = all()?;
        let owner = File::create(cluster.file(&format!("{name}{LOCK}")))?;
        owner.lock().with_context(|| format!("cannot lock the machine {name}"))?;
        let (machine, pki) = (cluster.machine_named(name), Pki::at(&cluster.state));
        let dir = machine.dir().to_owned();
        let node = Self { machine, programs, pki, dir, agent: Mutex::default(), _owner: owner };
        node.end()?;
        fs::create_dir_all(node.manifests())?;
        images::write(&node.programs, &node.images())?;
        node.power_on()?;
        node.node().import(&node.images())?;
        Ok(node)
    }

    /// Removes what tests that were killed have left, and gives the names of their machines.
    pub fn sweep() -> Result<Vec<String>> {
        let cluster = all()?;
        let mut swept = Vec::new();
        for entry in fs::read_dir(&cluster.state)? {
            let file = entry?.file_name().to_string_lossy().into_owned();
            let Some(name) = file.strip_suffix(LOCK) else { continue };
            let machine = cluster.machine_named(name);
            let owner = File::create(cluster.file(&file))?;
            if owner.try_lock().is_ok() && (machine.is_on() || machine.dir().exists()) {
                machine.power_off()?;
                machine.remove_all()?;
                swept.push(name.to_owned());
            }
        }
        Ok(swept)
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Its runtime, to be asked for pods.
    pub fn cri(&self) -> Result<Cri> {
        Ok(Cri::at(self.path(CRI_SOCKET)?))
    }

    /// A file of the machine's, by its path there, for this process.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        let first = self.machine.first_process().context("the machine is off")?;
        Ok(PathBuf::from(format!("/proc/{first}/root{path}")))
    }

    /// Kills containerd, and what it has started for itself; pods go on.
    pub fn kill_runtime(&self) -> Result<()> {
        self.machine.kill("containerd")
    }

    pub fn start_runtime(&self) -> Result<()> {
        self.node().start_containerd()
    }

    /// Pulls the plug, and begins it again with the disk that it had. No agent runs then.
    pub fn reboot(&self) -> Result<()> {
        self.power_off()?;
        self.power_on()
    }

    /// Writes a pod's object, as the API server has it: labelled for the mesh or not, with addresses or before.
    pub fn put_pod(&self, pod: &PodSpec, captured: bool, address: Option<std::net::IpAddr>) -> Result<()> {
        let labels = if captured { json!({"pillion.dev/capture": "enabled"}) } else { json!({}) };
        let ips: Vec<Value> = address.iter().map(|ip| json!({"ip": ip})).collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid(), "labels": labels},
            "spec": {"nodeName": NODE.0, "serviceAccountName": pod.name},
            "status": {"podIPs": ips},
        });
        self.put(&format!("pod-{}", pod.name), &object)
    }

    /// Writes any other object.
    pub fn put(&self, name: &str, object: &Value) -> Result<()> {
        let draft = self.dir.join("draft");
        fs::write(&draft, object.to_string())?;
        fs::rename(draft, self.manifests().join(format!("{name}.json")))
            .with_context(|| format!("cannot write {name}"))
    }

    pub fn remove_object(&self, name: &str) -> Result<()> {
        fs::remove_file(self.manifests().join(format!("{name}.json")))
            .with_context(|| format!("cannot remove {name}"))
    }

    /// Starts the agent as a plugin of the runtime, and waits until it is ready.
    pub fn start_agent(&self) -> Result<()> {
        self.begin_agent()?;
        self.agent_ready()
    }

    /// Starts the agent as a plugin of the runtime.
    pub fn begin_agent(&self) -> Result<()> {
        let plugin = ["--nri-plugin-dir", PLUGIN_DIR, "--nri-config-dir", CONFIG_DIR];
        self.begin_agent_with(&[&["--nri-socket", "/var/run/nri/nri.sock"][..], &plugin].concat())
    }

    /// Starts the agent as one that asks a runtime without NRI, and waits until it is ready.
    pub fn start_agent_by_cri(&self) -> Result<()> {
        self.begin_agent_with(&["--cri-socket", CRI_SOCKET])?;
        self.agent_ready()
    }

    /// Waits until the agent is ready.
    pub fn agent_ready(&self) -> Result<()> {
        let mut agent = self.agent.lock().expect("no holder panics");
        let agent = agent.as_mut().context("no agent runs")?;
        wait::until("the agent to be ready", READY_WITHIN, || {
            if let Some(status) = agent.try_wait()? {
                bail!("the agent ended with {status}: {}", tail(&self.agent_log()));
            }
            Ok(self.is_agent_ready().then_some(()))
        })
        .with_context(|| format!("its log:{}", tail(&self.agent_log())))
    }

    pub fn is_agent_ready(&self) -> bool {
        self.get("15021/healthz/ready").is_ok()
    }

    fn begin_agent_with(&self, flags: &[&str]) -> Result<()> {
        let log = |name| File::options().create(true).append(true).open(self.dir.join(name));
        let mut command = Command::new(agent::binary()?);
        command.args(["run", "--node", NODE.0, "--access-log", "--manifests"]).arg(self.manifests());
        command.args(["--ca-dir", "/var/lib/pillion/ca", "--state-dir", "/var/lib/pillion/state"]);
        command.args(flags);
        command.stdin(Stdio::null()).stdout(log("access.log")?).stderr(log("agent.log")?);
        let child = self.machine.spawn(&mut command)?;
        let mut agent = self.agent.lock().expect("no holder panics");
        ensure!(agent.is_none(), "the agent runs already");
        *agent = Some(child);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill_agent(&self) -> Result<()> {
        let agent = self.agent.lock().expect("no holder panics").take();
        let mut agent = agent.context("no agent runs")?;
        agent.kill()?;
        agent.wait().map(drop).context("the agent does not end")
    }

    /// `pillion uninstall`; gives what it says.
    pub fn uninstall(&self) -> Result<String> {
        let mut command = Command::new(agent::binary()?);
        self.machine.run(command.args(["uninstall", "--state-dir", "/var/lib/pillion/state"]), "")
    }

    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::parse(&self.get("15020/metrics")?)
    }

    pub fn config_dump(&self) -> Result<Value> {
        serde_json::from_str(&self.get("15000/config_dump")?).context("the agent answered no JSON")
    }

    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }

    /// The access log's lines so far.
    pub fn access_log(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.dir.join("access.log"))?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).context("not JSON")).collect()
    }

    fn get(&self, what: &str) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--max-time", "5"]).arg(format!("http://127.0.0.1:{what}"));
        self.machine.run(&mut curl, "")
    }

    fn power_on(&self) -> Result<()> {
        self.machine.power_on(&self.programs.path("pause")?)?;
        self.start_runtime()
    }

    fn node(&self) -> Node<'_> {
        Node { number: NODE.1, machine: &self.machine, programs: &self.programs, pki: &self.pki }
    }

    fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    fn images(&self) -> PathBuf {
        self.dir.join("images.tar")
    }

    fn end(&self) -> Result<()> {
        self.power_off()?;
        self.machine.remove_all()
    }

    /// The agent is this process's child, without whose end a machine does not end.
    fn power_off(&self) -> Result<()> {
        if self.agent.lock().expect("no holder panics").is_some() {
            self.kill_agent()?;
        }
        self.machine.power_off().map(drop)
    }
}

/// They share a directory, each under a name of its own.
fn all() -> Result<Cluster> {
    Cluster::at(&once::target().join("lone-of-tests"))
}

impl Drop for LoneNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in [self.dir.join("agent.log"), self.machine.log("containerd")] {
                eprintln!("{}:{}", log.display(), tail(&fs::read_to_string(&log).unwrap_or_default()));
            }
        }
        if let Err(error) = self.end() {
            eprintln!("the machine {} is not removed: {error:#}", self.machine.name());
        }
    }
}
