//! Somebody else's mesh: a command that is given two pods, and brings them into it.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Error, Result, bail, ensure};
use pillion_tests::{Node, Pod, Process};

use super::{Contestant, NAMES, request};

/// How long the command may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to go after its input has ended, and after SIGTERM.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// `--contestant name=command`.
#[derive(Clone, Debug)]
pub struct External {
    pub name: String,
    command: String,
}

impl FromStr for External {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, command) =
            text.split_once('=').context("give a contestant as NAME=COMMAND, e.g. mine='./mine.sh up'")?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= 30 && name.chars().all(plain),
            "a contestant's name is up to 30 lower-case letters, digits and dashes, not {name:?}"
        );
        ensure!(
            !NAMES.contains(&name),
            "the benchmark has a contestant {name} of its own: take another name"
        );
        ensure!(!command.trim().is_empty(), "the contestant {name} has no command");
        Ok(Self { name: name.to_owned(), command: command.to_owned() })
    }
}

impl External {
    pub(super) fn on(&self, nodes: [Node; 2]) -> Running {
        Running { external: self.clone(), nodes, process: Mutex::default() }
    }
}

/// Runs on the client's node, as root, in that node's network namespace, once there is a pair of pods.
pub(super) struct Running {
    external: External,
    nodes: [Node; 2],
    process: Mutex<Option<Process>>,
}

impl Running {
    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, client: &Pod, server: &Pod) -> Result<Process> {
        let Self { external: External { name, command }, nodes, .. } = self;
        let mut shell = nodes[0].command("sh").args(["-c", command]).own_cgroup(name).log(name);
        for (role, pod) in [("CLIENT", client), ("SERVER", server)] {
            shell = shell
                .env(format!("PILLION_BENCH_{role}_NETNS"), pod.netns())
                .env(format!("PILLION_BENCH_{role}_IP"), pod.ip4().to_string())
                .env(format!("PILLION_BENCH_{role}_CGROUP"), pod.cgroup());
        }
        let process = shell.start()?;
        process.wait_for("a line \"ready\" on its output", READY_WITHIN, || {
            Ok(process.log().lines().any(|line| line.trim() == "ready").then_some(()))
        })?;
        Ok(process)
    }
}

impl Contestant for Running {
    fn name(&self) -> &str {
        &self.external.name
    }

    fn nodes(&self) -> [&Node; 2] {
        self.nodes.each_ref()
    }

    fn enter(&self, _: &Pod) -> Result<()> {
        bail!("an external contestant is given one pair of pods, and no others")
    }

    fn enter_pair(&self, client: &Pod, server: &Pod) -> Result<()> {
        let mut process = self.process();
        ensure!(process.is_none(), "an external contestant is given one pair of pods, and no others");
        *process = Some(self.start(client, server)?);
        self.prove(client, server)
    }

    fn prove(&self, client: &Pod, server: &Pod) -> Result<()> {
        request(client, server)
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        self.process().iter().map(|process| process.cgroup().to_owned()).collect()
    }
}

impl Drop for Running {
    /// The end of its input, then SIGTERM, asks it to go; the bed's end does not ask.
    fn drop(&mut self) {
        let Some(process) = self.process().take() else { return };
        process.close_input();
        if process.wait(GONE_WITHIN).is_ok() {
            return;
        }
        if let Err(error) = process.stop(GONE_WITHIN) {
            eprintln!("{}: {error:#}", self.external.name);
        }
    }
}
