//! What passes a wire, recorded by tcpdump. (Not called a capture: in this project a pod is what is captured.)
//!
//! A recording is proven complete: it begins and ends with a marker ([`crate::marker`]) that was seen in its file. What
//! passed the device between the two is in the recording, however late tcpdump came to run.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::ip::netns_path;
use crate::marker::{self, Marker};
use crate::node::Node;
use crate::pcap::{self, Packets};
use crate::pod::Pod;
use crate::process::{Command, Process};
use crate::sys;

/// A marker is in the file some milliseconds later; on a busy machine tcpdump has to wait for a CPU.
const MARKED_WITHIN: Duration = Duration::from_secs(30);
/// A marker that was lost on the way (a device may drop packets on purpose) is followed by another after this time.
const MARK_EVERY: Duration = Duration::from_millis(100);

/// A recording that runs, until [`Recording::stop`] reads it.
pub struct Recording {
    tcpdump: Process,
    file: PathBuf,
    /// Where the device is.
    netns: PathBuf,
    device: String,
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
        let file = self.shared.dir.join(file_name(self.name()));
        Recording::start(self.command("tcpdump"), file, netns_path(&self.netns_name()), device, filter)
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
        Recording::start(self.command("tcpdump"), file, self.netns(), device, filter)
    }
}

impl Recording {
    fn start(tcpdump: Command, file: PathBuf, netns: PathBuf, device: &str, filter: &str) -> Result<Self> {
        let filter = match filter {
            "" => String::new(),
            given => format!("({given}) or {}", marker::FILTER),
        };
        // At once and unbuffered. A place in the ring is as large as the largest packet, which is 128 KiB here: 128 MiB are
        // 1,000 packets that come while tcpdump waits for a CPU; so it waits before nobody.
        let flags = ["-n", "-U", "--immediate-mode", "-B", "131072", "-s", "0", "-Z", "root"];
        let log = format!("tcpdump-{}", file.file_stem().unwrap_or_default().display());
        let tcpdump = tcpdump.args(flags).args(["-i", device, "-w"]).arg(&file).arg(filter).log(&log);
        let tcpdump = tcpdump.under("nice", &["-n", "-20"]).start()?;
        tcpdump.wait_log("listening on", MARKED_WITHIN).context("tcpdump records nothing")?;
        let recording = Self { tcpdump, file, netns, device: device.to_owned() };
        recording.mark()?;
        Ok(recording)
    }

    /// Signals tcpdump. One that is stopped (SIGSTOP) reads as late as one that waits long for a CPU.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.tcpdump.signal(signal)
    }

    /// Waits until `found` takes something of what has been recorded so far.
    pub fn wait_for<T>(&self, what: &str, found: impl Fn(&Packets) -> Option<T>) -> Result<T> {
        let what = format!("packets to show {what}");
        self.tcpdump.wait_for(&what, MARKED_WITHIN, || Ok(found(&pcap::read(&self.file)?)))
    }

    /// What has passed the device until now, all of it; the recording goes on. The device has to be there and up.
    pub fn so_far(&self) -> Result<Packets> {
        // First what is still under way: it was sent before, and passes the device later.
        marker::wait_queues_empty()?;
        self.mark()?;
        pcap::read(&self.file)
    }

    /// Ends the recording and reads it: all that has passed the device until now. The device has to be there and up.
    pub fn stop(self) -> Result<Packets> {
        self.so_far()?;
        self.tcpdump.signal(Signal::SIGINT)?;
        self.tcpdump.wait(MARKED_WITHIN)?;
        let log = self.tcpdump.log();
        ensure!(log.contains("\n0 packets dropped by kernel"), "tcpdump lost packets: {log}");
        pcap::read(&self.file)
    }

    /// Sends a marker over the device, and waits until the file shows it.
    fn mark(&self) -> Result<()> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{} {}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut file = File::open(&self.file)?;
        // The marker comes after all that is in the file now.
        let begin = file.metadata()?.len();
        let mut look = || -> Result<bool> {
            let mut recorded = Vec::new();
            file.seek(SeekFrom::Start(begin))?;
            file.read_to_end(&mut recorded)?;
            Ok(marker::shown(&recorded, &name))
        };
        let what = format!("a marker on {} in the recording", self.device);
        let marked = sys::in_netns(&self.netns, || {
            let marker = Marker::on(&self.device)?;
            let mut sent: Option<Instant> = None;
            self.tcpdump.wait_for(&what, MARKED_WITHIN, || {
                if sent.is_none_or(|sent| sent.elapsed() > MARK_EVERY) {
                    marker.send(&name)?;
                    sent = Some(Instant::now());
                }
                Ok(look()?.then_some(()))
            })
        });
        marked.context("the recording cannot be proven complete")
    }
}

/// A name that no other recording of this process has.
fn file_name(owner: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    format!("{owner}-{}.pcap", COUNT.fetch_add(1, Ordering::Relaxed))
}
