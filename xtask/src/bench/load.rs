//! `pillion-load`: the load generator and its servers, run in pods.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit};
use pillion_load::Report;
use pillion_tests::{Pod, Process};

use crate::load;

/// The ports of `pillion-load serve`; they are those of the services of old that do the same.
pub const ECHO: u16 = 7;
const SINK: u16 = 9;
const SOURCE: u16 = 19;

/// What keeps a pair of pods busy.
#[derive(Clone, Copy)]
pub enum Load {
    Http(Http),
    /// Bytes there and back on one connection.
    PingPong {
        size: u32,
    },
    Bulk {
        streams: u32,
        direction: &'static str,
    },
    /// The cost of connect() to a listener in the same pod.
    Connect,
}

#[derive(Clone, Copy)]
pub struct Http {
    pub version: Version,
    pub path: &'static str,
    pub connections: u32,
    /// Requests a second at times that are fixed beforehand; as many as there can be unless given.
    pub rate: Option<u32>,
    /// A connection for every request.
    pub close: bool,
}

#[derive(Clone, Copy)]
pub enum Version {
    Http1,
    Http2,
}

/// How long, in seconds.
#[derive(Clone, Copy)]
pub struct Time {
    /// Before anything counts.
    pub warm_up: f64,
    pub seconds: f64,
}

/// The program.
pub struct Generator {
    program: PathBuf,
}

impl Generator {
    /// Builds it.
    pub fn build() -> Result<Self> {
        Ok(Self { program: load::binary()? })
    }

    /// Starts the servers in a pod.
    pub fn serve(&self, pod: &Pod) -> Result<Process> {
        let ports = [("--echo", ECHO), ("--sink", SINK), ("--source", SOURCE)];
        let ports = ports.iter().flat_map(|(flag, port)| [(*flag).to_owned(), port.to_string()]);
        self.command(pod).arg("serve").args(ports).log("serve").start()
    }

    /// Runs the load in `client` against the servers of `server`, to its end.
    ///
    /// # Errors
    /// Also when anything that was asked for was not answered.
    pub fn run(&self, load: Load, client: &Pod, server: &Pod, time: Time) -> Result<Report> {
        let all = Duration::from_secs_f64(time.warm_up + time.seconds);
        let args = load.args(&server.ip4().to_string(), time);
        let said = self.command(client).args(args).timeout(all + Duration::from_secs(30)).run()?;
        checked(&said)
    }

    /// Opens that many connections in `client`, spread over servers, and holds them.
    pub fn hold(&self, client: &Pod, servers: &[(&Pod, u16)], connections: u32) -> Result<Held> {
        let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let held = self.try_to_hold(client, servers, connections);
        // pillion-load tells of its own limit; a proxy has two sockets for each connection, and just resets.
        let own = u64::from(connections) + OTHER_FILES;
        let is_short = own <= limit && own + u64::from(connections) > limit;
        let hint = || {
            format!(
                "{connections} connections, where a proxy may have {limit} open files: raise `ulimit -Hn`"
            )
        };
        if is_short { held.with_context(hint) } else { held }
    }

    fn try_to_hold(&self, client: &Pod, servers: &[(&Pod, u16)], connections: u32) -> Result<Held> {
        let to: Vec<String> = servers.iter().map(|(pod, port)| format!("{}:{port}", pod.ip4())).collect();
        let count = connections.to_string();
        let args = ["hold", "--to", &to.join(","), "--connections", &count, "--local-ports", "1024-65535"];
        let log = format!("hold-{connections}");
        let process = self.command(client).args(args).log(&log).start()?;
        process.wait_for(&format!("{connections} open connections"), HELD_WITHIN, || {
            Ok(process.log().lines().any(|line| line == "ready").then_some(()))
        })?;
        Ok(Held { process })
    }

    fn command(&self, pod: &Pod) -> pillion_tests::Command {
        pod.command(&self.program.display().to_string())
    }
}

/// Opening 30,000 connections through a proxy takes some seconds.
const HELD_WITHIN: Duration = Duration::from_secs(120);

/// What a process has open beside its connections, generously.
const OTHER_FILES: u64 = 100;

/// Connections that stay open and idle.
pub struct Held {
    process: Process,
}

impl Held {
    /// Closes them.
    pub fn close(self) -> Result<Report> {
        self.process.close_input();
        let status = self.process.wait(HELD_WITHIN)?;
        let log = self.process.log();
        ensure!(status.success(), "pillion-load hold ended with {status}: {log}");
        checked(log.lines().last().unwrap_or_default())
    }
}

impl Load {
    /// The command line without the program, as a report shows it.
    pub fn shown(self, time: Time) -> String {
        self.args("SERVER", time).join(" ")
    }

    fn args(self, server: &str, time: Time) -> Vec<String> {
        let mut args: Vec<String> = match self {
            Self::Http(http) => http.args(server),
            Self::PingPong { size } => {
                let (to, size) = (format!("{server}:{ECHO}"), size.to_string());
                ["ping-pong", "--to", &to, "--size", &size].map(str::to_owned).into()
            }
            Self::Bulk { streams, direction } => {
                let port = if direction == "up" { SINK } else { SOURCE };
                let (to, streams) = (format!("{server}:{port}"), streams.to_string());
                ["bulk", "--to", &to, "--streams", &streams, "--direction", direction]
                    .map(str::to_owned)
                    .into()
            }
            Self::Connect => vec!["connect".to_owned()],
        };
        let (warm_up, seconds) = (time.warm_up.to_string(), time.seconds.to_string());
        args.extend(["--warm-up", &warm_up, "--seconds", &seconds].map(str::to_owned));
        args
    }
}

impl Http {
    fn args(self, server: &str) -> Vec<String> {
        let (port, http2) = match self.version {
            Version::Http1 => (8080, None),
            Version::Http2 => (8081, Some("--http2")),
        };
        let (to, connections) = (format!("{server}:{port}"), self.connections.to_string());
        let rate = self.rate.map(|rate| rate.to_string());
        ["http", "--to", &to, "--path", self.path, "--connections", &connections]
            .into_iter()
            .chain(http2)
            .chain(rate.iter().flat_map(|rate| ["--rate", rate]))
            .chain(self.close.then_some("--close"))
            .map(str::to_owned)
            .collect()
    }
}

fn checked(said: &str) -> Result<Report> {
    let report: Report =
        serde_json::from_str(said).with_context(|| format!("pillion-load printed no report: {said:?}"))?;
    if report.errors > 0 {
        let first = report.first_error.as_deref().unwrap_or("no reason told");
        bail!("{} of {} failed: {first}", report.errors, report.errors + report.requests);
    }
    Ok(report)
}
