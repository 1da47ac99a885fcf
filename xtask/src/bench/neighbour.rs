//! Noisy neighbours: what a pair of pods at a fixed, small rate feels while another pair on the same two nodes is flooded.
//! All of them share the same CPUs, so even without a mesh the victim feels something: that is the measure.

use std::thread;

use anyhow::{Context, Result};

use super::cases::VICTIM;
use super::load::{Generator, Load, Time};
use super::metric::Metric;
use super::runner::{Findings, Runner, Turns};
use super::stage::{Pair, Stage};
use super::traffic::watched;

/// The flood has begun with all its connections by then.
const WARM_UP: f64 = 0.5;
/// The flood goes on so long after the victim was measured.
const OVERLAP: f64 = 0.3;

/// A victim, which is the stage's pair, and who floods beside it.
pub struct Neighbours<'a> {
    pub victim: &'a Stage,
    pub aggressor: Pair,
}

pub fn run(
    runner: &Runner,
    generator: &Generator,
    flood: Option<Load>,
    turns: Turns<'_>,
    neighbours: &[Neighbours<'_>],
) {
    let shown = |load: Load| load.shown(time(turns.seconds));
    let beside = flood.map(|flood| format!(" | beside {}", shown(flood))).unwrap_or_default();
    runner.results().commands.insert(turns.case.to_owned(), shown(VICTIM) + &beside);
    let entrants = neighbours.iter().map(|neighbours| (neighbours.victim.name(), neighbours));
    runner.take_turns(turns, entrants.collect(), |neighbours, seconds| {
        measure(generator, flood, neighbours, seconds)
    });
}

fn time(seconds: f64) -> Time {
    Time { warm_up: WARM_UP, seconds }
}

fn measure(
    generator: &Generator,
    flood: Option<Load>,
    neighbours: &Neighbours<'_>,
    seconds: f64,
) -> Result<Findings> {
    let Pair { client, server } = &neighbours.victim.pair;
    let watched = watched(neighbours.victim);
    let before = watched.read()?;
    let report = thread::scope(|scope| {
        let flooding = flood.map(|flood| {
            let aggressor = &neighbours.aggressor;
            let time = Time { warm_up: 0.0, seconds: WARM_UP + seconds + OVERLAP };
            scope.spawn(move || generator.run(flood, &aggressor.client, &aggressor.server, time))
        });
        let report = generator.run(VICTIM, client, server, time(seconds));
        if let Some(flooding) = flooding {
            let flooded = flooding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            flooded.context("the neighbour's flood")?;
        }
        report
    })?;
    let spent = before.until(&watched.read()?);
    let latency = report.latency.context("pillion-load told no latency")?;
    let values = vec![
        (Metric::LatencyP50, latency.p50),
        (Metric::LatencyP99, latency.p99),
        (Metric::LatencyP999, latency.p999),
    ];
    Ok(Findings { values, spent: Some(spent), ..Findings::default() })
}
