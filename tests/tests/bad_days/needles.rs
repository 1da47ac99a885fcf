//! A program that asks again and again, and whose questions can be recognised on a wire.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use pillion_tests::{Pod, Process, apps, wait};

/// A connection that is neither answered nor refused costs a second.
const ATTEMPTS_WITHIN: Duration = Duration::from_secs(40);

/// Connects, says the needle, reads until it has come back; tells of each attempt when it ended and how. Every connection is
/// one attempt, and takes a second at most.
const SCRIPT: &str = r"
import itertools, socket, sys, time
port, needle, hosts = int(sys.argv[1]), sys.argv[2].encode(), sys.argv[3:]
for host in itertools.cycle(hosts):
    how = 'ended'
    try:
        with socket.create_connection((host, port), 1) as s:
            s.sendall(needle)
            back = b''
            while len(back) < len(needle) and (more := s.recv(4096)): back += more
            if back == needle: how = 'ok'
    except OSError as error:
        how = type(error).__name__
    print(time.clock_gettime(time.CLOCK_MONOTONIC), how)
    time.sleep(0.03)
";

/// A loop of attempts from a pod to an echo server, over all of the server's addresses in turn.
pub struct Needles {
    process: Process,
}

/// One attempt.
pub struct Attempt {
    /// Its end, as [`wait::now`] tells the time.
    pub at: f64,
    /// "ok", "ended", or the error's name.
    pub how: String,
}

impl Needles {
    /// `log` tells this loop's log from others of the pod.
    pub fn start(from: &Pod, to: &[IpAddr], needle: &str, log: &str) -> Result<Self> {
        let args = [super::day::PORT.to_string(), needle.to_owned()].into_iter();
        let args = args.chain(to.iter().map(IpAddr::to_string));
        Ok(Self { process: apps::python(from, SCRIPT, args).log(log).start()? })
    }

    /// All attempts that have ended.
    pub fn attempts(&self) -> Vec<Attempt> {
        let log = self.process.log();
        // A line that is being written is left for later.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let read = |line: &str| {
            let (at, how) = line.split_once(' ')?;
            Some(Attempt { at: at.parse().ok()?, how: how.to_owned() })
        };
        whole.lines().filter_map(read).collect()
    }

    /// Waits until so many more attempts have ended, each of which began after now.
    pub fn wait_more(&self, count: usize) -> Result<()> {
        let now = wait::now();
        self.process.wait_for(&format!("{count} more attempts"), ATTEMPTS_WITHIN, || {
            // The one that is under way does not count.
            let since = self.attempts().iter().filter(|attempt| attempt.at > now).count();
            Ok((since > count).then_some(()))
        })
    }

    /// When two attempts in a row (one for each family of addresses) had been answered after `since`, if they have.
    pub fn well_since(&self, since: f64) -> Option<f64> {
        let attempts = self.attempts();
        let later: Vec<&Attempt> = attempts.iter().filter(|attempt| attempt.at > since).collect();
        later.windows(2).find(|pair| pair.iter().all(|one| one.how == "ok")).map(|pair| pair[1].at)
    }

    /// How attempts ended since then, each way once, with how often.
    pub fn outcomes(&self, since: f64) -> String {
        let mut counts = std::collections::BTreeMap::<String, usize>::new();
        for attempt in self.attempts().into_iter().filter(|attempt| attempt.at > since) {
            *counts.entry(attempt.how).or_default() += 1;
        }
        counts.iter().map(|(how, count)| format!("{count} {how}")).collect::<Vec<_>>().join(", ")
    }

    pub fn end(&self) -> Result<()> {
        self.process.kill()
    }
}
