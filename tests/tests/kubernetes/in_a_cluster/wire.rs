//! What is on a node's wires.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::deployed::Deployed;

/// A recording that goes on.
pub struct Wire {
    tcpdump: Child,
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
        Ok(Self { tcpdump, said })
    }

    /// Ends it, and gives how many there were.
    pub fn packets(mut self) -> Result<usize> {
        kill(Pid::from_raw(self.tcpdump.id() as i32), Signal::SIGINT).context("tcpdump has ended")?;
        let line = read_until(&mut self.said, "received by filter")?;
        self.tcpdump.wait()?;
        let number = line.split(' ').next().unwrap_or_default();
        number.parse().with_context(|| format!("tcpdump says {line:?}"))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // It has ended already, as a rule. One that is not waited for would keep its machine from ending.
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
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
