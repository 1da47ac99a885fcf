//! What keeps the agents busy: each generator runs again and again, so that connections come and go, and tells of
//! every error that it sees.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pillion_tests::Pod;
use serde_json::Value;

use super::rotation;
use super::stage::Stage;

/// Debian's packages that it takes.
pub const PACKAGES: &[&str] =
    &["iproute2", "tcpdump", "nginx-light", "redis-server", "redis-tools", "iperf3", "wrk"];

/// How long one run of a generator takes: connections of all ages are there at any time, and all end.
const RUN: Duration = Duration::from_secs(15);

/// How long a label stays as it is. Longer than a released pod's worker takes connections still (3 s).
const LABEL: Duration = Duration::from_secs(7);

/// What a generator did.
pub struct Load {
    pub name: &'static str,
    pub runs: usize,
    /// Of its own unit.
    pub done: f64,
    pub unit: &'static str,
    pub errors: Vec<String>,
}

/// A generator: one run of about that many seconds, which gives how much it did.
type Run<'a> = Box<dyn Fn(u64) -> Result<f64> + Send + 'a>;

/// Keeps the load up for `time`. `watch` is called all the while; its error ends the load early.
pub fn during(
    stage: &Stage,
    time: Duration,
    rotate: bool,
    mut watch: impl FnMut() -> Result<()>,
) -> Result<Vec<Load>> {
    let end = Instant::now() + time;
    let stopped = AtomicBool::new(false);
    let over = || stopped.load(Ordering::Relaxed) || Instant::now() >= end;
    thread::scope(|scope| {
        let over = &over;
        let mut loads = Vec::new();
        for (name, unit, run) in generators(stage) {
            loads.push(scope.spawn(move || repeat(name, unit, &run, end, over)));
        }
        loads.push(scope.spawn(move || labels(stage, over)));
        if rotate {
            loads.push(scope.spawn(move || roots(stage, over)));
        }
        let mut watched = Ok(());
        while watched.is_ok() && !over() {
            watched = watch();
        }
        stopped.store(true, Ordering::Relaxed);
        let loads = loads
            .into_iter()
            .map(|load| load.join().map_err(|_| anyhow::anyhow!("a load generator panicked")));
        let loads: Result<Vec<Load>> = loads.collect();
        watched.and(loads)
    })
}

fn generators(stage: &Stage) -> Vec<(&'static str, &'static str, Run<'_>)> {
    let (web, cache) = (stage.web.ip4(), stage.cache.ip6());
    let url = format!("http://{web}/1k");
    let url6 = format!("http://[{}]/hello", stage.web.ip6());
    let visited = url.clone();
    vec![
        (
            "wrk, keep-alive, IPv4",
            "requests",
            Box::new(move |seconds| wrk(&stage.browser, &url, seconds, 32, &[])),
        ),
        (
            "wrk, Connection: close, IPv6",
            "requests",
            Box::new(move |seconds| wrk(&stage.browser, &url6, seconds, 16, &["-H", "Connection: close"])),
        ),
        (
            "wrk in the pod whose label comes and goes",
            "requests",
            Box::new(move |seconds| wrk(&stage.visitor, &visited, seconds, 4, &["-H", "Connection: close"])),
        ),
        ("iperf3", "bytes", Box::new(move |seconds| iperf3(&stage.batch, &cache.to_string(), seconds))),
        (
            "redis-benchmark, a connection a request",
            "requests",
            Box::new(move |seconds| redis_connections(&stage.batch, &cache.to_string(), seconds)),
        ),
        (
            "redis-benchmark, keep-alive",
            "requests",
            Box::new(move |_| redis(&stage.batch, &cache.to_string(), 20_000, "1")),
        ),
    ]
}

fn repeat(name: &'static str, unit: &'static str, run: &Run, end: Instant, over: impl Fn() -> bool) -> Load {
    let mut load = Load { name, runs: 0, done: 0.0, unit, errors: Vec::new() };
    while !over() {
        let left = end.saturating_duration_since(Instant::now()).min(RUN);
        match run(left.as_secs().max(1)) {
            Ok(done) => load.done += done,
            Err(error) => load.errors.push(format!("{error:#}")),
        }
        load.runs += 1;
    }
    load
}

/// Takes the visitor out of the mesh and back in; in the end it is in.
fn labels(stage: &Stage, over: impl Fn() -> bool) -> Load {
    let mut load = Load { name: "label on and off", runs: 0, done: 0.0, unit: "changes", errors: Vec::new() };
    let mut captured = true;
    while !over() {
        thread::sleep(LABEL);
        captured = !captured;
        load.runs += 1;
        match set_label(stage, captured) {
            Ok(()) => load.done += 1.0,
            Err(error) => load.errors.push(format!("{error:#}")),
        }
    }
    if let Err(error) = set_label(stage, true) {
        load.errors.push(format!("{error:#}"));
    }
    load
}

/// Replaces the root of the mesh again and again; a rotation that has begun is finished.
fn roots(stage: &Stage, over: impl Fn() -> bool) -> Load {
    let name = "root of the mesh replaced";
    let mut load = Load { name, runs: 0, done: 0.0, unit: "rotations", errors: Vec::new() };
    // Behind one that failed there is no other: what is half done stays so.
    while !over() && load.errors.is_empty() {
        load.runs += 1;
        match rotation::rotate(stage) {
            Ok(()) => load.done += 1.0,
            Err(error) => load.errors.push(format!("{error:#}")),
        }
    }
    load
}

fn set_label(stage: &Stage, captured: bool) -> Result<()> {
    let (agent, visitor) = (&stage.agents[0], &stage.visitor);
    if captured {
        visitor.capture()?;
        agent.wait_serving(visitor)
    } else {
        visitor.release()?;
        agent.wait_released(visitor)
    }
}

fn wrk(client: &Pod, url: &str, seconds: u64, connections: u32, more: &[&str]) -> Result<f64> {
    let (seconds, connections) = (format!("{seconds}s"), connections.to_string());
    let wrk = client.command("wrk").args(["-t1", "--timeout", "20s", "-c", &connections, "-d", &seconds]);
    let said = wrk.args(more).arg(url).run()?;
    if let Some(errors) = said.lines().find(|line| line.contains("Socket errors") || line.contains("Non-2xx"))
    {
        bail!("{}", errors.trim());
    }
    let requests = said.lines().find_map(|line| line.trim().split_once(" requests in "));
    let (requests, _) = requests.with_context(|| format!("wrk said {said:?}"))?;
    Ok(requests.parse()?)
}

fn iperf3(client: &Pod, host: &str, seconds: u64) -> Result<f64> {
    let seconds = seconds.to_string();
    let said = client.command("iperf3").args(["-J", "-P", "2", "-c", host, "-t", &seconds]).output()?;
    let report: Value = serde_json::from_str(&said.stdout()).context("iperf3 said no JSON")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    report["end"]["sum_received"]["bytes"].as_f64().context("iperf3 reported no bytes")
}

/// Connections a second of clients that close first: each leaves a TIME-WAIT, and of the 28,000 ports that Linux
/// gives out a minute's worth has to suffice.
const CLOSED_PER_SECOND: u64 = 200;

/// The client closes first, after each request.
fn redis_connections(client: &Pod, host: &str, seconds: u64) -> Result<f64> {
    let requests = CLOSED_PER_SECOND * seconds;
    let begun = Instant::now();
    redis(client, host, requests, "0")?;
    thread::sleep(Duration::from_secs(seconds).saturating_sub(begun.elapsed()));
    Ok(requests as f64)
}

fn redis(client: &Pod, host: &str, requests: u64, keep_alive: &str) -> Result<f64> {
    let benchmark = client.command("redis-benchmark").args(["-q", "-h", host, "-k", keep_alive]);
    let output = benchmark.args(["-c", "16", "-t", "get", "-n", &requests.to_string()]).output()?;
    let said = format!("{}{}", output.stdout(), output.stderr);
    ensure!(
        output.status.success() && !said.to_lowercase().contains("error"),
        "redis-benchmark said {said:?}"
    );
    Ok(requests as f64)
}
