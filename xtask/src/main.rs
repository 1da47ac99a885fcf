//! Pillion's own tasks: `cargo xtask …`.

#![forbid(unsafe_code)]

mod acyclic;
mod bench;
mod deny;
mod requirements;
mod semantics;
mod step;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Pillion's own tasks", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check and test everything: format, lints, dependencies, modules, unit tests, end-to-end tests (as root)
    Test(test::Args),
    /// Measure latency, throughput, connections, CPU and memory beside plain TCP (as root)
    Bench(bench::Args),
    /// Remove what killed tests and demos left behind: network namespaces, cgroups, mounts, files
    Sweep,
    /// Install the Debian packages that the demo and the tests use, where they are missing (as root)
    Requirements,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Test(args) => test::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Sweep => sweep(),
        Task::Requirements => requirements::ensure(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn sweep() -> Result<()> {
    let swept = pillion_tests::sweep()?;
    swept.iter().for_each(|id| println!("removed {id}"));
    if swept.is_empty() {
        println!("nothing was left behind");
    }
    Ok(())
}
