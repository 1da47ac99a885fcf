//! What is measured, each with a tool that others know.

use super::Pair;
use super::cpu::Cpu;
use super::metric::Metric;
use anyhow::{Context, Result};
use pillion_tests::{Agent, Pod, Process};
use std::time::Duration;

pub struct Case {
    pub name: &'static str,
    pub run: fn(&Pair, Duration, &[Agent; 2]) -> Result<Vec<Measured>>,
}

/// In the metric's unit.
pub type Measured = (Metric, f64);

pub const CASES: [Case; 5] = [
    Case { name: "http1-c1", run: http_one_connection },
    Case { name: "http1-c32", run: http_many_connections },
    Case { name: "connections", run: new_connections },
    Case { name: "bulk-1", run: bulk },
    Case { name: "ping-pong-64", run: ping_pong },
];

const SOCKPERF_PORT: u16 = 11111;

/// HTTP/1.1 keep-alive, one request at a time, 5 bytes: latency.
fn http_one_connection(pair: &Pair, time: Duration, _: &[Agent; 2]) -> Result<Vec<Measured>> {
    let wrk = wrk(pair, time, 1, "hello", &["--latency"])?;
    Ok(vec![
        (Metric::LatencyP50, wrk.percentile("50%")?),
        (Metric::LatencyP99, wrk.percentile("99%")?),
        (Metric::Rate, wrk.rate()?),
    ])
}

/// HTTP/1.1 keep-alive on 32 connections, 1 KiB: throughput, and the CPU time of everything for it.
fn http_many_connections(pair: &Pair, time: Duration, agents: &[Agent; 2]) -> Result<Vec<Measured>> {
    let before = Cpu::now(agents)?;
    let wrk = wrk(pair, time, 32, "1k", &["--latency"])?;
    let spent = before.until_now(agents)?;
    let thousands = wrk.requests()? / 1000.0;
    Ok(vec![
        (Metric::Rate, wrk.rate()?),
        (Metric::LatencyP99, wrk.percentile("99%")?),
        (Metric::CpuMsPerKreq, spent.all * 1000.0 / thousands),
        (Metric::MeshCpuMsPerKreq, spent.agents * 1000.0 / thousands),
    ])
}

/// A connection for every request.
fn new_connections(pair: &Pair, time: Duration, _: &[Agent; 2]) -> Result<Vec<Measured>> {
    let wrk = wrk(pair, time, 8, "hello", &["-H", "Connection: close"])?;
    Ok(vec![(Metric::Rate, wrk.rate()?)])
}

/// One stream as fast as it goes.
fn bulk(pair: &Pair, time: Duration, agents: &[Agent; 2]) -> Result<Vec<Measured>> {
    let before = Cpu::now(agents)?;
    let seconds = time.as_secs().to_string();
    let host = pair.server.ip4().to_string();
    let json = pair.client.command("iperf3").args(["-J", "-c", &host, "-t", &seconds]).run()?;
    let spent = before.until_now(agents)?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    let received = &json["end"]["sum_received"];
    let gigabytes = received["bytes"].as_f64().context("iperf3 tells no bytes")? / 1e9;
    let bits = received["bits_per_second"].as_f64().context("iperf3 tells no rate")?;
    Ok(vec![
        (Metric::Throughput, bits / 1e9),
        (Metric::CpuSPerGb, spent.all / gigabytes),
        (Metric::MeshCpuSPerGb, spent.agents / gigabytes),
    ])
}

/// 64 bytes there and back over TCP.
fn ping_pong(pair: &Pair, time: Duration, _: &[Agent; 2]) -> Result<Vec<Measured>> {
    let (host, port) = (pair.server.ip4().to_string(), SOCKPERF_PORT.to_string());
    let seconds = time.as_secs().to_string();
    let said = pair
        .client
        .command("sockperf")
        .args(["ping-pong", "--tcp", "-i", &host, "-p", &port, "-m", "64", "-t", &seconds])
        .run()?;
    let percentile = |name: &str| -> Result<f64> {
        let line =
            said.lines().find(|line| line.contains(name)).with_context(|| format!("no {name} in {said}"))?;
        Ok(line.rsplit('=').next().unwrap_or_default().trim().parse()?)
    };
    // sockperf tells half of the round trip.
    Ok(vec![
        (Metric::LatencyP50, 2.0 * percentile("percentile 50.000")?),
        (Metric::LatencyP99, 2.0 * percentile("percentile 99.000")?),
    ])
}

pub fn sockperf_server(pod: &Pod) -> Result<Process> {
    let (address, port) = (pod.ip4().to_string(), SOCKPERF_PORT.to_string());
    let server = pod.command("sockperf").args(["server", "--tcp", "-i", &address, "-p", &port]).start()?;
    server.wait_listening(SOCKPERF_PORT)?;
    Ok(server)
}

struct Wrk(String);

fn wrk(pair: &Pair, time: Duration, connections: usize, path: &str, more: &[&str]) -> Result<Wrk> {
    let url = format!("http://{}:8080/{path}", pair.server.ip4());
    let (connections, time) = (format!("-c{connections}"), format!("-d{}s", time.as_secs()));
    let said = pair
        .client
        .command("wrk")
        .args(["-t1", &connections, &time])
        .args(more)
        .arg(&url)
        .timeout(Duration::from_secs(120))
        .run()?;
    anyhow::ensure!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "wrk saw errors:\n{said}");
    Ok(Wrk(said))
}

impl Wrk {
    fn rate(&self) -> Result<f64> {
        Ok(self.after("Requests/sec:")?.parse()?)
    }

    fn requests(&self) -> Result<f64> {
        let line =
            self.0.lines().find(|line| line.contains("requests in")).context("wrk tells no requests")?;
        Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
    }

    fn percentile(&self, name: &str) -> Result<f64> {
        microseconds(self.after(name)?)
    }

    fn after(&self, name: &str) -> Result<&str> {
        let line = self.0.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map(str::trim).with_context(|| format!("wrk tells no {name}:\n{}", self.0))
    }
}

fn microseconds(text: &str) -> Result<f64> {
    let (number, factor) = [("us", 1.0), ("ms", 1e3), ("s", 1e6)]
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .with_context(|| format!("{text} is no time"))?;
    Ok(number.parse::<f64>()? * factor)
}
