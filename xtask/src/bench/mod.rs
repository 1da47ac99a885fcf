//! `cargo xtask bench`: what the way through the mesh costs, beside plain TCP between pods of the same bed.
//!
//! Contestants take turns in every round, so that what else the machine does hits all of them. Every sample is
//! kept; the table shows medians. Nothing here passes or fails by time.

mod baseline;
mod cases;
mod compare;
mod cpu;
mod machine;
mod memory;
mod metric;
mod report;
mod results;
mod stats;

use crate::workspace;
use anyhow::Result;
use cases::CASES;
use pillion_tests::{AgentOptions, Bed, Pod, apps, requirements};
use results::{Mode, Results, Settings};
use std::time::Duration;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    task: Option<Task>,
    /// How often each contestant is measured in each case
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long one measurement takes
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Idle pods for the memory measurement
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// Measure only cases whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// More flags for the agents, e.g. --agent-arg=--hbone-congestion=cubic
    #[arg(long)]
    agent_arg: Vec<String>,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Show what changed beyond noise between two results
    Compare(compare::Args),
    /// Show results that were taken before, and write their report.md and report.html again
    Report(report::Args),
}

/// What is compared.
#[derive(Clone, Copy)]
enum Contestant {
    /// Pods outside the mesh: plain TCP through the same bridges and wire.
    None,
    /// Captured pods on two nodes.
    Pillion,
}

pub fn run(args: &Args) -> Result<()> {
    match &args.task {
        Some(Task::Compare(args)) => return compare::run(args),
        Some(Task::Report(args)) => return report::run(args),
        None => (),
    }
    requirements::ensure(requirements::APPS)?;
    requirements::ensure(&["wrk", "sockperf"])?;
    let settings = Settings { mode: Mode::Custom, rounds: args.rounds, seconds: args.seconds as f64 };
    let date = time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339)?;
    let mut results = Results::new(date, machine::look()?, settings);
    results.versions = machine::versions(None);
    measure_traffic(args, &mut results)?;
    if "memory".contains(&args.only) {
        memory::measure(args, &mut results)?;
    }
    report::print(&results);
    report::write(&results, &workspace::root().join("report"))
}

/// A client and a server on two nodes.
struct Pair {
    contestant: Contestant,
    client: Pod,
    server: Pod,
}

fn measure_traffic(args: &Args, results: &mut Results) -> Result<()> {
    let bed = Bed::new("bench")?;
    let (n1, n2) = (bed.node("n1")?, bed.node("n2")?);
    let options =
        args.agent_arg.iter().fold(AgentOptions::default(), |options, arg| options.arg(arg.clone()));
    let agents = [n1.start_agent(&options)?, n2.start_agent(&options)?];
    let mut pairs = vec![];
    for contestant in [Contestant::None, Contestant::Pillion] {
        let pod = |node: &pillion_tests::Node, role: &str| {
            let pod = node.pod(&format!("{role}-{}", contestant.name()));
            match contestant {
                Contestant::None => pod.create(),
                Contestant::Pillion => pod.captured().create(),
            }
        };
        let pair = Pair { contestant, client: pod(&n1, "client")?, server: pod(&n2, "server")? };
        apps::nginx(&pair.server, 8080)?;
        apps::iperf3(&pair.server, 5201)?;
        cases::sockperf_server(&pair.server)?;
        pairs.push(pair);
    }
    for pair in pairs.iter().filter(|pair| matches!(pair.contestant, Contestant::Pillion)) {
        agents[0].wait_serving(&pair.client)?;
        agents[1].wait_serving(&pair.server)?;
        agents.iter().try_for_each(|agent| agent.wait_known(&pair.server).map(drop))?;
    }
    let time = Duration::from_secs(args.seconds);
    for case in CASES.iter().filter(|case| case.name.contains(&args.only)) {
        for pair in &pairs {
            (case.run)(pair, Duration::from_secs(1), &agents)?;
        }
        for round in 0..args.rounds {
            for pair in &pairs {
                eprintln!("{} {} {}/{}", case.name, pair.contestant.name(), round + 1, args.rounds);
                for (metric, value) in (case.run)(pair, time, &agents)? {
                    results.add(pair.contestant.name(), case.name, metric, value);
                }
            }
        }
    }
    Ok(())
}

impl Contestant {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pillion => "pillion",
        }
    }
}
