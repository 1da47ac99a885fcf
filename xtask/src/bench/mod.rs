//! `cargo xtask bench`: what a mesh costs, beside no mesh and beside a sidecar in every pod, on the same machine, with
//! the same apps, in the same run. Every sample is kept; nothing here passes or fails by time.

mod cases;
mod contestant;
mod cost;
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
mod results;
mod runner;
mod stage;
mod stats;
mod traffic;

use std::fs;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use nix::unistd::geteuid;
use pillion_tests::{interrupt, requirements};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::terminal;
use load::Generator;
use plan::Plan;
use progress::Progress;
use results::Results;
use runner::Runner;

pub use plan::Args;

/// Debian's packages for the bed, its apps, and the proof that a contestant works.
const PACKAGES: &[&str] = &["iproute2", "tcpdump", "nginx-light", "curl"];

pub fn run(args: &Args) -> Result<()> {
    let plan = Plan::new(args)?;
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

    let date = OffsetDateTime::now_utc().format(&Rfc3339)?;
    let results = Arc::new(Mutex::new(Results::new(date, machine::look(), plan.settings_shown())));
    fs::create_dir_all(&plan.out).with_context(|| format!("cannot make {}", plan.out.display()))?;
    save_when_interrupted(&results, &plan);
    let runner = Runner { results, progress: Progress::new(plan.cases.len()) };
    measure::all(&plan, &runner, &generator)?;
    runner.progress.finish();
    write(&runner.results(), &plan)
}

/// What is there is a report, too.
fn save_when_interrupted(results: &Arc<Mutex<Results>>, plan: &Plan) {
    let (results, out) = (results.clone(), plan.out.clone());
    interrupt::before_the_end(move || {
        let Ok(results) = results.lock() else { return };
        if let Err(error) = results.write(&out) {
            eprintln!("{error:#}");
        }
    });
}

fn write(results: &Results, plan: &Plan) -> Result<()> {
    results.write(&plan.out)
}
