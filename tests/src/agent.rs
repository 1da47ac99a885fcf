//! A node's agent: the real program, asked by what it offers to everybody.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{self, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::http::{self, Response};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::pod::Pod;
use crate::process::{Command, Process, Spot};
use crate::sys;

const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);
/// The default of `--metrics-addr` is every address; IPv6's loopback proves that it is dual-stack.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 15020);
const HEALTH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15021);

/// Loading and verifying the hooks takes most of it.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Applying a change is promised within a second; a busy machine needs more.
const CHANGED_WITHIN: Duration = Duration::from_secs(15);
/// Longer than the agent's own drain deadline (25 s).
const STOP_WITHIN: Duration = Duration::from_secs(40);

/// What the agent is told besides its places.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    args: Vec<String>,
    env: Vec<(String, String)>,
    program: Option<PathBuf>,
    under: Option<(String, Vec<String>)>,
}

/// A running `pillion run`. Like every process it ends with the bed, not with this handle.
#[derive(Clone)]
pub struct Agent {
    node: Node,
    options: AgentOptions,
    process: Arc<Mutex<Process>>,
}

impl AgentOptions {
    /// One more argument. A place of the bed's (`--manifests` …) that is given here replaces the bed's own, when flag
    /// and value are two arguments.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Another build of the agent than [`binary`]'s.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Started by another program, as in [`Command::under`]: `under("prlimit", &["--nofile=400"])`.
    pub fn under(mut self, program: &str, args: &[&str]) -> Self {
        self.under = Some((program.to_owned(), args.iter().map(|arg| (*arg).to_owned()).collect()));
        self
    }

    /// On a node that has so many MiB of memory, as the agent reads it.
    pub fn node_memory(self, mib: usize) -> Self {
        let script = format!(
            "file=$(mktemp) && echo 'MemTotal: {} kB' >$file && mount --bind $file /proc/meminfo && rm $file && exec \"$@\"",
            mib * 1024
        );
        self.under("unshare", &["--mount", "--propagation", "slave", "sh", "-c", &script, "sh"])
    }

    /// With the objects of an API server instead of the bed's manifests.
    pub fn kube(self, kubeconfig: &Path) -> Self {
        self.arg("--kube").arg("--kubeconfig").arg(kubeconfig.display().to_string())
    }

    /// With one JSON line a connection, for [`Agent::access_log`].
    pub fn access_log(self) -> Self {
        self.arg("--access-log")
    }
}

impl Node {
    /// Starts this node's agent and waits until it is ready.
    pub fn start_agent(&self, options: &AgentOptions) -> Result<Agent> {
        let agent = self.begin_agent(options)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts this node's agent, which cannot be ready yet: waits until it says that it waits for this.
    pub fn start_agent_that_waits(&self, options: &AgentOptions, what: &str) -> Result<Agent> {
        let agent = self.begin_agent(options)?;
        agent.process().wait_for(&format!("the agent to wait for {what}"), READY_WITHIN, || {
            let Ok(response) = agent.ask(HEALTH, "GET", "/healthz/ready") else { return Ok(None) };
            Ok((response.status == 503 && response.body.contains(what)).then_some(()))
        })?;
        Ok(agent)
    }

    fn begin_agent(&self, options: &AgentOptions) -> Result<Agent> {
        let process = Arc::new(Mutex::new(self.agent_command(options)?.start()?));
        Ok(Agent { node: self.clone(), options: options.clone(), process })
    }

    /// `pillion run` with this node's places, to be started by hand.
    pub fn agent_command(&self, options: &AgentOptions) -> Result<Command> {
        let shared = &self.shared;
        let state = self.make_state_dir()?;
        let places: [(&str, &Path); 5] = [
            ("--manifests", shared.manifests.dir()),
            ("--ca-dir", &shared.ca_dir()),
            ("--state-dir", &state),
            ("--cgroup-root", &self.cgroup()),
            ("--bpffs", &shared.bpffs()),
        ];
        let mut command = self.pillion("run", options.program.clone())?.args(["--node", self.name()]);
        // What plays the kubelet runs in the node's cgroup, below the hooks.
        if !options.args.iter().any(|arg| arg.starts_with("--probes")) {
            command = command.args(["--probes", "attested"]);
        }
        for (flag, place) in places {
            // What the caller gives is not given twice, and objects and certificates come from one place.
            let is_given = |arg: &String| {
                arg == flag
                    || (flag == "--manifests" && arg == "--kube")
                    || (flag == "--ca-dir" && arg == "--ca-addr")
            };
            if !options.args.iter().any(is_given) {
                command = command.arg(flag).arg(place);
            }
        }
        for (key, value) in &options.env {
            command = command.env(key, value);
        }
        command = command.args(&options.args);
        if let Some((program, args)) = &options.under {
            command = command.under(program, &args.iter().map(String::as_str).collect::<Vec<_>>());
        }
        Ok(command.log("agent").stdout_log("access"))
    }

    /// Runs `pillion uninstall` for this node's agent; gives what it printed.
    pub fn uninstall(&self) -> Result<String> {
        let state = self.make_state_dir()?;
        self.pillion("uninstall", None)?.arg("--state-dir").arg(state).run()
    }

    /// `pillion ca` on the directory that all agents of the bed share: `["rotate", "begin"]`.
    pub fn ca_command(&self, args: &[&str]) -> Result<Command> {
        Ok(self.pillion("ca", None)?.args(args).arg("--ca-dir").arg(self.shared.ca_dir()))
    }

    /// `pillion ca` as it is given: `["serve", "--secret=…"]`.
    pub fn ca_command_with<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Command> {
        Ok(self.pillion("ca", None)?.args(args))
    }

    fn pillion(&self, subcommand: &str, program: Option<PathBuf>) -> Result<Command> {
        let program = program.map_or_else(binary, Ok)?;
        let spot = Spot { cgroup: self.agent_cgroup(), ..self.spot() };
        Ok(Command::new(&program.display().to_string(), spot).arg(subcommand))
    }

    fn make_state_dir(&self) -> Result<PathBuf> {
        let dir = self.shared.state_dir(self.name());
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }
}

impl Agent {
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The process as it is now; another one after [`Agent::restart`].
    pub fn process(&self) -> Process {
        self.process.lock().expect("no holder panics").clone()
    }

    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// Everything it logged, over restarts.
    pub fn log(&self) -> String {
        self.process().log()
    }

    /// The access log's lines so far, over restarts. A line that is being written is left for later.
    pub fn access_log(&self) -> Result<Vec<Value>> {
        let path = self.node.spot().log("access");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let parse = |line: &str| serde_json::from_str(line).with_context(|| format!("not JSON: {line:?}"));
        whole.lines().map(parse).collect()
    }

    /// Waits for an access log line that `found` takes.
    pub fn wait_access(&self, what: &str, found: impl Fn(&Value) -> bool) -> Result<Value> {
        let process = self.process();
        process.wait_for(&format!("the access log to show {what}"), CHANGED_WITHIN, || {
            Ok(self.access_log()?.into_iter().find(&found))
        })
    }

    /// Waits until `/healthz/ready` says so.
    pub fn wait_ready(&self) -> Result<()> {
        let mut said = String::from("nothing: it does not listen");
        let ready = self.process().wait_for("the agent to be ready", READY_WITHIN, || {
            let Ok(response) = self.ask(HEALTH, "GET", "/healthz/ready") else { return Ok(None) };
            said = response.body;
            Ok((response.status == 200).then_some(()))
        });
        ready.with_context(|| format!("/healthz/ready of {} said {said:?}", self.node.name()))
    }

    /// Waits until `/healthz/ready` says that it is not, and why in words that `found` takes; gives them.
    pub fn wait_not_ready(&self, what: &str, found: impl Fn(&str) -> bool) -> Result<String> {
        self.process().wait_for(&format!("/healthz/ready to show {what}"), READY_WITHIN, || {
            let response = self.ask(HEALTH, "GET", "/healthz/ready")?;
            Ok((response.status == 503 && found(&response.body)).then_some(response.body))
        })
    }

    /// What `/healthz/ready` answers now: whether the agent is ready, and the text.
    pub fn readiness(&self) -> Result<(bool, String)> {
        let response = self.ask(HEALTH, "GET", "/healthz/ready")?;
        Ok((response.status == 200, response.body))
    }

    /// One scrape.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::parse(&ok(self.ask(METRICS, "GET", "/metrics")?)?)
    }

    /// Scrapes until `found` takes it.
    pub fn wait_metrics(&self, what: &str, found: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
        self.process().wait_for(&format!("the metrics to show {what}"), CHANGED_WITHIN, || {
            let metrics = self.metrics()?;
            Ok(found(&metrics).then_some(metrics))
        })
    }

    pub fn config_dump(&self) -> Result<Value> {
        json(self.ask(ADMIN, "GET", "/config_dump")?)
    }

    /// Asks until `found` takes the dump.
    pub fn wait_config(&self, what: &str, found: impl Fn(&Value) -> bool) -> Result<Value> {
        self.process().wait_for(&format!("the configuration to show {what}"), CHANGED_WITHIN, || {
            let dump = self.config_dump()?;
            Ok(found(&dump).then_some(dump))
        })
    }

    /// The pod's worker, as `/config_dump` has it.
    pub fn worker(&self, pod: &Pod) -> Result<Option<Value>> {
        Ok(worker_in(&self.config_dump()?, pod).cloned())
    }

    /// Waits until the pod's worker serves: from then on the pod's connections are captured.
    pub fn wait_serving(&self, pod: &Pod) -> Result<()> {
        let serves = |dump: &Value| worker_in(dump, pod).is_some_and(|worker| worker["state"] == "serving");
        self.wait_config(&format!("that {} is served", pod.name()), serves).map(drop)
    }

    /// Waits until the pod has no worker any more, or one that only drains.
    pub fn wait_released(&self, pod: &Pod) -> Result<()> {
        let gone = |dump: &Value| worker_in(dump, pod).is_none_or(|worker| worker["state"] == "draining");
        self.wait_config(&format!("that {} is released", pod.name()), gone).map(drop)
    }

    /// Waits until the agent knows the pod under this address, e.g. as a peer on another node.
    pub fn wait_known(&self, pod: &Pod) -> Result<()> {
        let known = |dump: &Value| {
            let mut workloads = dump["workloads"].as_array().into_iter().flatten();
            workloads.any(|w| w["name"]["name"] == pod.name() && w["name"]["namespace"] == pod.namespace())
        };
        self.wait_config(&format!("that {} is known", pod.name()), known).map(drop)
    }

    /// Runs the audit now; gives its answer.
    pub fn audit(&self) -> Result<Value> {
        json(self.ask(ADMIN, "POST", "/audit")?)
    }

    /// Has the pod's worker panic, in its main loop or in a task that it cannot do without. The agent was started with
    /// `--panic-on-request`.
    pub fn panic(&self, pod: &Pod, in_task: bool) -> Result<()> {
        let place = if in_task { "task" } else { "worker" };
        let path = format!("/panic?pod={}/{}&in={place}", pod.namespace(), pod.name());
        ok(self.ask(ADMIN, "POST", &path)?).map(drop)
    }

    /// SIGTERM, and waits until it has drained and ended.
    pub fn stop(&self) -> Result<ExitStatus> {
        self.process().stop(STOP_WITHIN)
    }

    /// SIGKILL, and waits for the end: what a crash leaves behind.
    pub fn kill(&self) -> Result<()> {
        self.process().kill()
    }

    /// Starts it anew, with the same options, and waits until it is ready. Ends the old one by SIGTERM where it
    /// still runs.
    pub fn restart(&self) -> Result<()> {
        self.begin_restart()?;
        self.wait_ready()
    }

    /// As [`Agent::restart`], and does not wait: the new one may not be able to serve, or may end.
    pub fn begin_restart(&self) -> Result<()> {
        if self.process().exited().is_none() {
            self.stop()?;
        }
        let process = self.node.agent_command(&self.options)?.start()?;
        *self.process.lock().expect("no holder panics") = process;
        Ok(())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process().signal(signal)
    }

    /// Resident memory, in bytes.
    pub fn rss(&self) -> Result<u64> {
        Ok(self.status_number("VmRSS:")? * 1024)
    }

    /// How many threads it has.
    pub fn threads(&self) -> Result<u64> {
        self.status_number("Threads:")
    }

    /// How many file descriptors it has open.
    pub fn fds(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    /// CPU time it has used, user and system.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let fields = stat.rsplit_once(')').context("no program name in /proc/…/stat")?.1;
        // utime and stime (proc_pid_stat(5), fields 14 and 15), in ticks of 10 ms on every Linux.
        let ticks =
            fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Duration::from_millis(ticks * 10))
    }

    fn status_number(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    fn ask(&self, server: SocketAddr, method: &str, path: &str) -> Result<Response> {
        self.node.visit(|| http::request(server, method, path))
    }
}

/// The agent's program: `PILLION_BIN`, or a release build of this workspace, made once.
pub fn binary() -> Result<PathBuf> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BINARY.get_or_init(|| match env::var_os("PILLION_BIN") {
        Some(path) => Ok(path.into()),
        None => build().map_err(|error| format!("{error:#}")),
    });
    built.clone().map_err(anyhow::Error::msg)
}

fn build() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = process::Command::new(cargo);
    sys::hear_signals(&mut command);
    let output = command
        .args(["build", "--release", "-p", "pillion-agent", "--message-format=json-render-diagnostics"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "the agent does not build");
    let messages = String::from_utf8(output.stdout)?;
    let executable = |line| Some(serde_json::from_str::<Value>(line).ok()?["executable"].as_str()?.into());
    messages.lines().find_map(executable).context("cargo named no executable")
}

fn worker_in<'a>(dump: &'a Value, pod: &Pod) -> Option<&'a Value> {
    let mut workers = dump["workers"].as_array()?.iter();
    workers.find(|worker| worker["namespace"] == pod.namespace() && worker["pod"] == pod.name())
}

fn ok(response: Response) -> Result<String> {
    if response.status != 200 {
        bail!("the agent answered {}: {}", response.status, response.body.trim());
    }
    Ok(response.body)
}

fn json(response: Response) -> Result<Value> {
    let body = ok(response)?;
    serde_json::from_str(&body).with_context(|| format!("the agent answered no JSON: {body:?}"))
}
