//! What it takes to be in the mesh, and what the mesh's hooks cost those who are not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use pillion_tests::Pod;

use super::contestant::Contestant;
use super::load::{Generator, Load, Time};
use super::metric::Metric;
use super::runner::{Findings, Runner, Turns};
use super::stage::Stage;

/// The time from a running pod's label, or the first rule of iptables for its sidecar, until the mesh serves it.
pub fn start(runner: &Runner, turns: Turns<'_>, stages: &[&Stage]) {
    let entrants = stages.iter().map(|stage| (stage.name(), &*stage.contestant)).collect();
    let count = AtomicUsize::new(0);
    runner.take_turns(turns, entrants, |contestant, _| {
        let count = count.fetch_add(1, Ordering::Relaxed);
        let pod = contestant.nodes()[0].pod(&format!("start-{count}")).create()?;
        let milliseconds = time_to_enter(*contestant, &pod)?;
        pod.delete()?;
        Ok(Findings { values: vec![(Metric::ReadyMs, milliseconds)], ..Findings::default() })
    });
}

fn time_to_enter(contestant: &dyn Contestant, pod: &Pod) -> Result<f64> {
    let begun = Instant::now();
    contestant.enter(pod)?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// connect() of pods outside of the mesh, on the contestants' nodes.
pub fn hooks(runner: &Runner, generator: &Generator, turns: Turns<'_>, stages: &[&Stage]) {
    let time = |seconds| Time { warm_up: 0.1, seconds };
    runner.results().commands.insert(turns.case.to_owned(), Load::Connect.shown(time(turns.seconds)));
    let pod = |stage: &Stage| {
        let [node, _] = stage.contestant.nodes();
        node.pod(&format!("bystander-{}", stage.name())).create()
    };
    let entrants = stages.iter().filter_map(|stage| {
        let pod = pod(stage).inspect_err(|error| runner.miss(turns.case, stage.name(), error)).ok()?;
        Some((stage.name(), (*stage, pod)))
    });
    runner.take_turns(turns, entrants.collect(), |(stage, pod), seconds| {
        let watched = super::traffic::watched(stage);
        let before = watched.read()?;
        let report = generator.run(Load::Connect, pod, pod, time(seconds))?;
        let spent = before.until(&watched.read()?);
        let latency = report.latency.context("pillion-load told no time of connect()")?;
        let values = vec![(Metric::Connect, latency.p50)];
        Ok(Findings { values, spent: Some(spent), ..Findings::default() })
    });
}
