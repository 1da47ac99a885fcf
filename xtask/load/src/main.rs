//! `pillion-load`: the benchmark's load generator. A client prints one JSON report on standard output.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use pillion_load::{
    BulkArgs, ConnectArgs, HoldArgs, HttpArgs, PingPongArgs, Report, ServeArgs, raise_open_files,
};

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
    /// Round trips over raw TCP
    PingPong(PingPongArgs),
    /// As many bytes as go
    Bulk(BulkArgs),
    /// Opens idle connections, prints "ready", and closes them when standard input ends
    Hold(HoldArgs),
    /// What connect() costs
    Connect(ConnectArgs),
    /// Servers for the others, until the process is ended
    Serve(ServeArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pillion-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    raise_open_files()?;
    let report = match task {
        Task::Http(args) => on_this_thread(args.run())?,
        Task::PingPong(args) => args.run()?,
        Task::Bulk(args) => args.run()?,
        Task::Hold(args) => on_this_thread(args.run(|| println!("ready")))?,
        Task::Connect(args) => args.run()?,
        Task::Serve(args) => return on_this_thread(args.run()),
    };
    print(&report)
}

fn print(report: &Report) -> Result<()> {
    println!("{}", serde_json::to_string(report).context("a report is JSON")?);
    Ok(())
}

/// One thread for everything: a second one would take a core from what is measured.
fn on_this_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
