//! `cargo xtask bench`: what a mesh costs, beside no mesh and beside a sidecar in every pod, on the same machine, with
//! the same apps, in the same run. Every sample is kept; nothing here passes or fails by time.

mod baseline;
mod cases;
mod compare;
mod contestant;
mod cost;
mod cross_check;
mod entering;
mod load;
mod machine;
mod measure;
mod memory;
mod metric;
mod neighbour;
mod plan;
mod progress;
mod quiet;
mod report;
mod results;
mod runner;
mod stage;
mod stats;
mod traffic;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use nix::unistd::geteuid;
use pillion_tests::peers::envoy;
use pillion_tests::{interrupt, requirements};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::terminal;
use load::Generator;
use plan::Plan;
use progress::Progress;
use results::Results;
use runner::Runner;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    task: Option<Task>,
    #[command(flatten)]
    wishes: plan::Wishes,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Show what changed beyond noise between two results
    Compare(compare::Args),
    /// Show results that were taken before, and write their report.md and report.html again
    Report(report::Args),
}

/// Debian's packages for the bed, its apps, and the proof that a contestant works.
const PACKAGES: &[&str] = &["iproute2", "tcpdump", "nginx-light", "curl"];

pub fn run(args: &Args) -> Result<()> {
    match &args.task {
        Some(Task::Compare(args)) => compare::run(args),
        Some(Task::Report(args)) => report::run(args),
        None => take(&Plan::new(&args.wishes)?),
    }
}

/// Takes a new report.
fn take(plan: &Plan) -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "the benchmark makes network namespaces, cgroups and eBPF programs, which needs root: sudo -E cargo xtask bench"
    );
    interrupt::clean_up_on_signals()?;
    requirements::ensure(PACKAGES)?;
    // For 30,000 connections; agents, sidecars and apps inherit it.
    pillion_load::raise_open_files()?;
    terminal::Progress::new().announce("building the agent and the load generator (release)");
    pillion_tests::agent::binary()?;
    let generator = Generator::build()?;
    if plan.cross_check {
        cross_check::run(&generator)?;
    }

    let date = OffsetDateTime::now_utc().format(&Rfc3339)?;
    let mut results = Results::new(date, machine::look()?, plan.settings_shown());
    results.versions = machine::versions(envoy(plan).as_deref());
    let results = Arc::new(Mutex::new(results));
    save_when_interrupted(&results, plan);
    let runner = Runner { results, progress: Progress::new(plan.cases.len()) };
    measure::all(plan, &runner, &generator)?;
    runner.progress.finish();
    report::print(&runner.results());
    report::write(&runner.results(), &plan.out)
}

/// The Envoy that takes part. When there is none, its contestants tell why.
fn envoy(plan: &Plan) -> Option<PathBuf> {
    let takes_part = plan.contestants.iter().any(|name| name.starts_with("envoy-"));
    takes_part.then(|| envoy::program(plan.settings.envoy.as_deref()).ok()).flatten()
}

/// What is there is a report, too.
fn save_when_interrupted(results: &Arc<Mutex<Results>>, plan: &Plan) {
    let (results, out) = (results.clone(), plan.out.clone());
    interrupt::before_the_end(move || {
        let Ok(results) = results.lock() else { return };
        if let Err(error) = report::write(&results, &out) {
            eprintln!("{error:#}");
        }
    });
}
