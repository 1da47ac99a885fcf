//! Cases of traffic: latency, rate, throughput, and the CPU time they take.

use anyhow::{Context, Result};
use pillion_load::Report;

use super::cases::Traffic;
use super::cost::cpu::{Spent, Watched};
use super::cost::memory;
use super::load::{ECHO, Generator, Held, Time};
use super::metric::Metric;
use super::runner::{Findings, Runner, Turns};
use super::stage::{Pair, Stage};

/// Before each measurement's own time: connections are made, and their windows open.
const WARM_UP: f64 = 0.3;

/// A contestant with what is open beside the load.
struct Entrant<'a> {
    stage: &'a Stage,
    _idle: Option<Held>,
}

pub fn run(runner: &Runner, generator: &Generator, traffic: &Traffic, turns: Turns<'_>, stages: &[&Stage]) {
    let time = time(turns.seconds);
    runner.results().commands.insert(turns.case.to_owned(), traffic.load.shown(time));
    let entrants = stages.iter().filter_map(|stage| {
        let idle = idle(generator, &stage.pair, traffic.idle);
        let idle = idle.inspect_err(|error| runner.miss(turns.case, stage.name(), error)).ok()?;
        Some((stage.name(), Entrant { stage, _idle: idle }))
    });
    runner.take_turns(turns, entrants.collect(), |entrant, seconds| {
        measure(generator, traffic, entrant.stage, seconds)
    });
}

fn idle(generator: &Generator, pair: &Pair, connections: u32) -> Result<Option<Held>> {
    match connections {
        0 => Ok(None),
        _ => generator.hold(&pair.client, &[(&pair.server, ECHO)], connections).map(Some),
    }
}

fn measure(generator: &Generator, traffic: &Traffic, stage: &Stage, seconds: f64) -> Result<Findings> {
    let Pair { client, server } = &stage.pair;
    let watched = watched(stage);
    let before = watched.read()?;
    let report = generator.run(traffic.load, client, server, time(seconds))?;
    let spent = before.until(&watched.read()?);
    let values = traffic
        .metrics
        .iter()
        .map(|metric| {
            let value = match metric {
                Metric::MeshMemory => memory::pss(&watched.mesh)?,
                _ => value(*metric, &report, &spent)
                    .with_context(|| format!("pillion-load told nothing for {}", metric.name()))?,
            };
            Ok((*metric, value))
        })
        .collect::<Result<_>>()?;
    let latency = report.latency.filter(|_| traffic.distribution);
    let distribution = latency.map(|latency| latency.cdf).unwrap_or_default();
    Ok(Findings { values, distribution, spent: Some(spent) })
}

fn time(seconds: f64) -> Time {
    Time { warm_up: WARM_UP, seconds }
}

/// Whose CPU time and memory is told apart on this stage.
pub fn watched(stage: &Stage) -> Watched {
    let [apps, mesh] = [stage.pair.cgroups(), stage.contestant.cgroups()];
    Watched { bed: stage.bed.clone(), apps, mesh }
}

fn value(metric: Metric, report: &Report, spent: &Spent) -> Option<f64> {
    // The CPU time is that of the warm-up, too.
    let per_kreq = |seconds: f64| Some(seconds * 1e3 / (report.with_warm_up.requests as f64 / 1e3));
    let per_gb = |seconds: f64| Some(seconds / (report.with_warm_up.bytes as f64 / 1e9));
    let latency = report.latency.as_ref();
    match metric {
        Metric::LatencyP50 => latency.map(|latency| latency.p50),
        Metric::LatencyP99 => latency.map(|latency| latency.p99),
        Metric::LatencyP999 => latency.map(|latency| latency.p999),
        Metric::Rate => Some(report.requests as f64 / report.seconds),
        Metric::Throughput => Some(report.bytes as f64 * 8.0 / 1e9 / report.seconds),
        Metric::CpuSPerGb => per_gb(spent.all),
        Metric::AppCpuSPerGb => per_gb(spent.apps),
        Metric::MeshCpuSPerGb => per_gb(spent.mesh),
        Metric::KernelCpuSPerGb => per_gb(spent.kernel()),
        Metric::CpuMsPerKreq => per_kreq(spent.all),
        Metric::AppCpuMsPerKreq => per_kreq(spent.apps),
        Metric::MeshCpuMsPerKreq => per_kreq(spent.mesh),
        Metric::KernelCpuMsPerKreq => per_kreq(spent.kernel()),
        Metric::MeshMemory | Metric::ReadyMs | Metric::Connect => None,
    }
}
