//! The order of a run: first what all contestants stand for at once, then memory, for which each stands alone.

use anyhow::Result;
use pillion_tests::Bed;

use super::cases::{Case, What};
use super::load::Generator;
use super::memory::{self, Open};
use super::neighbour::{self, Neighbours};
use super::plan::Plan;
use super::results::ALL_CASES;
use super::runner::{Runner, Turns};
use super::stage::{Pair, Stage};
use super::{contestant, entering, traffic};

/// Seconds of a contestant's first measurement in a case, which is not kept.
const WARM_UP: f64 = 0.3;

pub fn all(plan: &Plan, runner: &Runner, generator: &Generator) -> Result<()> {
    let in_pairs = |case: &&Case| !matches!(case.what, What::Pods(_) | What::Open { .. });
    let (pairs, memory): (Vec<&Case>, Vec<&Case>) = plan.cases.iter().copied().partition(in_pairs);
    if !pairs.is_empty() {
        with_pairs(plan, runner, generator, &pairs)?;
    }
    with_beds_of_their_own(plan, runner, generator, &memory);
    Ok(())
}

/// All contestants stand at once, and take turns.
fn with_pairs(plan: &Plan, runner: &Runner, generator: &Generator, cases: &[&Case]) -> Result<()> {
    // Before the stages, so that it is dropped after them: an external contestant is asked to go.
    let bed = Bed::new("bench")?;
    let stages: Vec<Stage> =
        plan.contestants.iter().filter_map(|name| set(plan, runner, generator, &bed, name)).collect();
    let floods = cases.iter().any(|case| matches!(case.what, What::Neighbour(_)));
    let neighbours = if floods { neighbours(plan, runner, generator, cases, &stages) } else { vec![] };
    for case in cases {
        let entrants: Vec<&str> = plan.entrants(case).collect();
        let stages: Vec<&Stage> = stages.iter().filter(|stage| entrants.contains(&stage.name())).collect();
        let turns =
            Turns { case: case.name, rounds: plan.rounds, seconds: plan.seconds, warm_up: Some(WARM_UP) };
        match case.what {
            What::Traffic(traffic) => traffic::run(runner, generator, &traffic, turns, &stages),
            What::Neighbour(flood) => neighbour::run(runner, generator, flood, turns, &neighbours),
            What::Start => entering::start(runner, Turns { warm_up: None, ..turns }, &stages),
            What::Hooks => entering::hooks(runner, generator, turns, &stages),
            What::Pods(_) | What::Open { .. } => {}
        }
    }
    Ok(())
}

/// One that cannot be set up is missing in all of its cases.
fn set(plan: &Plan, runner: &Runner, generator: &Generator, bed: &Bed, name: &str) -> Option<Stage> {
    runner.progress.now(&format!("setting up {name}"));
    let contestant = contestant::stand(bed, name, &plan.settings);
    let stage = contestant.and_then(|contestant| Stage::set(bed, contestant, generator));
    let told = stage.inspect_err(|error| {
        runner.progress.say(&format!("without {name}: {error:#}"));
        runner.miss(ALL_CASES, name, error);
    });
    told.ok()
}

/// A second pair on the nodes of each stage that takes part.
fn neighbours<'a>(
    plan: &Plan,
    runner: &Runner,
    generator: &Generator,
    cases: &[&Case],
    stages: &'a [Stage],
) -> Vec<Neighbours<'a>> {
    let cases: Vec<&&Case> = cases.iter().filter(|case| matches!(case.what, What::Neighbour(_))).collect();
    let takes_part = |name: &str| cases.iter().any(|case| plan.entrants(case).any(|entrant| entrant == name));
    let pair = |stage: &'a Stage| {
        let aggressor = Pair::new(&*stage.contestant, "noisy-", generator);
        let aggressor = aggressor.inspect_err(|error| {
            cases.iter().for_each(|case| runner.miss(case.name, stage.name(), error));
        });
        Some(Neighbours { victim: stage, aggressor: aggressor.ok()? })
    };
    stages.iter().filter(|stage| takes_part(stage.name())).filter_map(pair).collect()
}

/// Memory: a contestant after the other, each in beds of its own.
fn with_beds_of_their_own(plan: &Plan, runner: &Runner, generator: &Generator, cases: &[&Case]) {
    let mut pods = vec![];
    let mut open = vec![];
    for case in cases {
        match case.what {
            What::Pods(count) => pods.push((case.name, count)),
            What::Open { connections, closed } => open.push(Open { case: case.name, connections, closed }),
            _ => {}
        }
    }
    let entrants: Vec<&str> = cases.first().map(|case| plan.entrants(case).collect()).unwrap_or_default();
    for _ in 0..plan.memory_rounds {
        for name in &entrants {
            memory::pods(runner, name, &plan.settings, &pods);
            memory::open(runner, name, &plan.settings, generator, &open);
        }
    }
    cases.iter().for_each(|case| runner.progress.done(case.name, &runner.results()));
}
