//! What is on a node's wires.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::deployed::{Begun, Deployed};

/// A recording that goes on.
pub struct Wire {
    tcpdump: Begun,
    said: BufReader<std::process::ChildStderr>,
}

impl Wire {
    /// Begins to record what crosses the node's cable: packets that this filter (pcap-filter(7)) lets through.
    pub fn tap(deployed: &Deployed, node: &str, filter: &str) -> Result<Self> {
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-i", "eth0", "--immediate-mode", "-U", "-n", "-w", "/dev/null", filter]);
        tcpdump.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut tcpdump = deployed.standing.cluster.machine(node)?.spawn(&mut tcpdump)?;
        let mut said = BufReader::new(tcpdump.stderr.take().context("tcpdump has no standard error")?);
        // It listens from here on.
        read_until(&mut said, "listening on")?;
        Ok(Self { tcpdump: Begun(tcpdump), said })
    }

    /// Ends it, and gives how many there were.
    pub fn packets(mut self) -> Result<usize> {
        kill(Pid::from_raw(self.tcpdump.0.id() as i32), Signal::SIGINT).context("tcpdump has ended")?;
        let line = read_until(&mut self.said, "packets received by filter")?;
        self.tcpdump.0.wait()?;
        let number = line.split(' ').next().unwrap_or_default();
        number.parse().with_context(|| format!("tcpdump says {line:?}"))
    }
}

fn read_until(said: &mut impl BufRead, what: &str) -> Result<String> {
    let mut all = String::new();
    loop {
        let mut line = String::new();
        let read = said.read_line(&mut line)?;
        if line.contains(what) {
            return Ok(line);
        }
        all += &line;
        anyhow::ensure!(read > 0, "tcpdump ended and said: {all}");
    }
}
