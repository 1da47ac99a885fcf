//! What passes a wire, recorded by tcpdump. (Not called a capture: in this project a pod is what is captured.)

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::node::Node;
use crate::pcap::{self, Packets};
use crate::pod::Pod;
use crate::process::{Command, Process};

/// A recording that runs, until [`Recording::stop`] reads it.
pub struct Recording {
    tcpdump: Process,
    file: PathBuf,
}

impl Node {
    /// Records what passes this node's wire, from now on. `filter` is pcap-filter(7)'s; empty is everything.
    pub fn record_wire(&self, filter: &str) -> Result<Recording> {
        let wires = self.wires();
        ensure!(wires.len() == 1, "node {} has {} wires: one can be recorded", self.name(), wires.len());
        self.record(&wires[0], filter)
    }

    /// Records what passes one of the node's links.
    pub fn record(&self, device: &str, filter: &str) -> Result<Recording> {
        Recording::start(
            self.command("tcpdump"),
            self.shared.dir.join(file_name(self.name())),
            device,
            filter,
        )
    }
}

impl Pod {
    /// Records what the pod sends and receives.
    pub fn record(&self, filter: &str) -> Result<Recording> {
        self.record_device("eth0", filter)
    }

    /// Records what passes another of the pod's network interfaces: `lo` is what it says to itself.
    pub fn record_device(&self, device: &str, filter: &str) -> Result<Recording> {
        let file = self.node().shared.dir.join(file_name(self.name()));
        Recording::start(self.command("tcpdump"), file, device, filter)
    }
}

impl Recording {
    fn start(tcpdump: Command, file: PathBuf, device: &str, filter: &str) -> Result<Self> {
        // At once and unbuffered: what was sent before the stop is in the file. 64 MiB for bursts.
        let flags = ["-n", "-U", "--immediate-mode", "-B", "65536", "-s", "0", "-Z", "root"];
        let log = format!("tcpdump-{}", file.file_stem().unwrap_or_default().display());
        let tcpdump =
            tcpdump.args(flags).args(["-i", device, "-w"]).arg(&file).arg(filter).log(&log).start()?;
        tcpdump.wait_log("listening on", Duration::from_secs(10)).context("tcpdump records nothing")?;
        Ok(Self { tcpdump, file })
    }

    /// The file as it grows, for tshark and the like.
    pub fn file(&self) -> &PathBuf {
        &self.file
    }

    /// Waits until `found` takes something of what has been recorded so far.
    pub fn wait_for<T>(&self, what: &str, found: impl Fn(&Packets) -> Option<T>) -> Result<T> {
        let what = format!("packets to show {what}");
        self.tcpdump.wait_for(&what, Duration::from_secs(10), || Ok(found(&pcap::read(&self.file)?)))
    }

    /// Ends the recording and reads it.
    pub fn stop(self) -> Result<Packets> {
        self.tcpdump.signal(Signal::SIGINT)?;
        self.tcpdump.wait(Duration::from_secs(10))?;
        let log = self.tcpdump.log();
        ensure!(log.contains("\n0 packets dropped by kernel"), "tcpdump lost packets: {log}");
        pcap::read(&self.file)
    }
}

/// A name that no other recording of this process has.
fn file_name(owner: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    format!("{owner}-{}.pcap", COUNT.fetch_add(1, Ordering::Relaxed))
}
