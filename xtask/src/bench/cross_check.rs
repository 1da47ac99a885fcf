//! `--cross-check`: the load generator beside the tools that others measure with, on pods without a mesh. Both take
//! turns in every round, so that what the machine does meanwhile hits both.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use pillion_load::Report;
use pillion_tests::{Bed, Pod, Process, apps, requirements};
use serde_json::Value;

use super::contestant::Plain;
use super::load::{Generator, Http, Load, Time, Version};
use super::stage::Pair;
use super::stats::median;

/// After one that is not kept.
const ROUNDS: usize = 5;
/// wrk and iperf3 take whole seconds.
const ROUND: Duration = Duration::from_secs(2);

/// Debian's packages of the tools.
const PACKAGES: [&str; 4] = ["wrk", "nghttp2-client", "iperf3", "sockperf"];

/// One number by two tools, a sample a round each.
pub struct CrossCheck {
    pub case: &'static str,
    pub tool: &'static str,
    pub unit: &'static str,
    pub theirs: Vec<f64>,
    pub ours: Vec<f64>,
}

impl CrossCheck {
    /// Of the medians, ours over theirs.
    pub fn ratio(&self) -> f64 {
        median(&self.ours) / median(&self.theirs)
    }
}

/// Makes the pods, compares, and prints a table.
pub fn run(generator: &Generator) -> Result<()> {
    requirements::ensure(&PACKAGES)?;
    let bed = Bed::new("cross-check")?;
    let none = Plain::new("none", [bed.node("n1")?, bed.node("n2")?]);
    let pair = Pair::new(&none, "", generator)?;
    let checks = cross_check(generator, &pair.client, &pair.server, ROUND)?;
    print!("{}", table(&checks));
    Ok(())
}

/// Compares on two pods that have the servers of a [`Pair`].
pub fn cross_check(
    generator: &Generator,
    client: &Pod,
    server: &Pod,
    round: Duration,
) -> Result<Vec<CrossCheck>> {
    apps::iperf3(server, IPERF3_PORT)?;
    sockperf_server(server)?;
    let time = Time { warm_up: 0.5, seconds: round.as_secs_f64() };
    CASES.iter().map(|case| case.take(generator, client, server, time)).collect()
}

/// A number that both can tell.
struct Case {
    name: &'static str,
    tool: &'static str,
    unit: &'static str,
    theirs: fn(&Pod, &Pod, u64) -> Result<f64>,
    load: Load,
    ours: fn(&Report) -> Option<f64>,
}

const CASES: [Case; 5] = [
    Case {
        name: "http1-c1 p50",
        tool: "wrk",
        unit: "µs",
        theirs: |client, server, seconds| {
            microseconds(after(&wrk(client, server, seconds, "hello", 1)?, "50%")?)
        },
        load: http(Version::Http1, "/hello", 1),
        ours: p50,
    },
    Case {
        name: "http1-c32 rate",
        tool: "wrk",
        unit: "1/s",
        theirs: |client, server, seconds| {
            Ok(after(&wrk(client, server, seconds, "1k", 32)?, "Requests/sec:")?.parse()?)
        },
        load: http(Version::Http1, "/1k", 32),
        ours: rate,
    },
    Case {
        name: "http2-c32 rate",
        tool: "h2load",
        unit: "1/s",
        theirs: h2load,
        load: http(Version::Http2, "/1k", 32),
        ours: rate,
    },
    Case {
        name: "bulk-1",
        tool: "iperf3",
        unit: "Gb/s",
        theirs: iperf3,
        load: Load::Bulk { streams: 1, direction: "up" },
        ours: |report| Some(report.bytes as f64 * 8e-9 / report.seconds),
    },
    Case {
        name: "ping-pong-64 p50",
        tool: "sockperf",
        unit: "µs",
        theirs: sockperf,
        load: Load::PingPong { size: 64 },
        ours: p50,
    },
];

const fn http(version: Version, path: &'static str, connections: u32) -> Load {
    Load::Http(Http { version, path, connections, rate: None, close: false })
}

fn p50(report: &Report) -> Option<f64> {
    Some(report.latency.as_ref()?.p50)
}

fn rate(report: &Report) -> Option<f64> {
    Some(report.requests as f64 / report.seconds)
}

impl Case {
    fn take(&self, generator: &Generator, client: &Pod, server: &Pod, time: Time) -> Result<CrossCheck> {
        let (mut theirs, mut ours) = (vec![], vec![]);
        for round in 0..=ROUNDS {
            eprintln!("cross-check: {}, {round}/{ROUNDS}", self.name);
            let seen = (self.theirs)(client, server, time.seconds as u64);
            let seen = seen.with_context(|| format!("{} against {} failed", self.name, self.tool))?;
            let report = generator.run(self.load, client, server, time)?;
            let own = (self.ours)(&report).context("pillion-load completed nothing")?;
            // The first is for caches and for links that have never been used.
            if round > 0 {
                theirs.push(seen);
                ours.push(own);
            }
        }
        Ok(CrossCheck { case: self.name, tool: self.tool, unit: self.unit, theirs, ours })
    }
}

fn table(checks: &[CrossCheck]) -> String {
    let mut table = String::from("| case | tool | theirs | pillion-load | ratio |\n|---|---|--:|--:|--:|\n");
    for check in checks {
        let show = |values: &[f64]| format!("{:.2} {}", median(values), check.unit);
        let (theirs, ours) = (show(&check.theirs), show(&check.ours));
        let _ =
            writeln!(table, "| {} | {} | {theirs} | {ours} | {:.3} |", check.case, check.tool, check.ratio());
    }
    table
}

fn wrk(client: &Pod, server: &Pod, seconds: u64, path: &str, connections: u32) -> Result<String> {
    let url = format!("http://{}:8080/{path}", server.ip4());
    let (connections, time) = (format!("-c{connections}"), format!("-d{seconds}s"));
    client.command("wrk").args(["-t1", &connections, &time, "--latency", &url]).run()
}

/// One request at a time on each connection, as pillion-load has it.
fn h2load(client: &Pod, server: &Pod, seconds: u64) -> Result<f64> {
    let url = format!("http://{}:8081/1k", server.ip4());
    let said = client.command("h2load").args(["-c32", "-m1", "-D", &seconds.to_string(), &url]).run()?;
    // "finished in 1.00s, 65706.00 req/s, 72.06MB/s"
    let rate = after(&said, "finished in")?.split(", ").find_map(|part| part.strip_suffix(" req/s"));
    Ok(rate.with_context(|| format!("h2load tells no rate:\n{said}"))?.parse()?)
}

const IPERF3_PORT: u16 = 5201;

fn iperf3(client: &Pod, server: &Pod, seconds: u64) -> Result<f64> {
    let (host, seconds) = (server.ip4().to_string(), seconds.to_string());
    let said = client.command("iperf3").args(["-J", "-c", &host, "-t", &seconds]).run()?;
    let said: Value = serde_json::from_str(&said)?;
    let bits = said["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.context("iperf3 tells no rate")? / 1e9)
}

const SOCKPERF_PORT: u16 = 11111;

fn sockperf_server(pod: &Pod) -> Result<Process> {
    let (address, port) = (pod.ip4().to_string(), SOCKPERF_PORT.to_string());
    let server = pod.command("sockperf").args(["server", "--tcp", "-i", &address, "-p", &port]).start()?;
    server.wait_listening(SOCKPERF_PORT)?;
    Ok(server)
}

fn sockperf(client: &Pod, server: &Pod, seconds: u64) -> Result<f64> {
    let (host, port, seconds) = (server.ip4().to_string(), SOCKPERF_PORT.to_string(), seconds.to_string());
    let args = ["ping-pong", "--tcp", "-i", &host, "-p", &port, "-m", "64", "-t", &seconds];
    let said = client.command("sockperf").args(args).run()?;
    let line = said.lines().find(|line| line.contains("percentile 50.000"));
    let half = line.and_then(|line| line.rsplit('=').next()).context("sockperf tells no median")?;
    // It tells half of the round trip.
    Ok(2.0 * half.trim().parse::<f64>()?)
}

/// The rest of the line that begins so.
fn after<'a>(said: &'a str, begin: &str) -> Result<&'a str> {
    let line = said.lines().find_map(|line| line.trim().strip_prefix(begin));
    line.map(str::trim).with_context(|| format!("no {begin:?} in\n{said}"))
}

fn microseconds(text: &str) -> Result<f64> {
    let (number, factor) = [("us", 1.0), ("ms", 1e3), ("s", 1e6)]
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .with_context(|| format!("{text} is no time"))?;
    Ok(number.parse::<f64>()? * factor)
}
