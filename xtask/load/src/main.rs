//! `pillion-load`: the benchmark's load generator. A client prints one JSON report on standard output.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use pillion_load::{HttpArgs, Report, raise_open_files};

#[derive(Parser)]
#[command(name = "pillion-load", about = "The benchmark's load generator: a run prints one JSON report")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// HTTP requests: as many as are answered, or at a fixed rate
    Http(HttpArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("pillion-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<String> {
    raise_open_files()?;
    let report = match task {
        Task::Http(args) => on_this_thread(args.run())?,
    };
    serde_json::to_string(&report).context("a report is JSON")
}

/// One thread for everything: a second one would take a core from what is measured.
fn on_this_thread(work: impl Future<Output = Result<Report>>) -> Result<Report> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
