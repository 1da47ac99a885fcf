//! The `pillion` command.
#![forbid(unsafe_code)]

use clap::Parser;
use pillion_agent::admin;
use pillion_agent::cli::{Ca, Cli, Cluster, Command, Health};
use pillion_agent::nri::hold;
use pillion_agent::{authz, ca, node, telemetry};
use std::process::ExitCode;
use std::time::Duration;

/// Lines of the log that are still to be written when the process ends get this long.
const LOG_FLUSH: Duration = Duration::from_secs(2);

/// musl's own has one lock for all threads, and maps every buffer of 128 KiB anew (docs/image.md has the numbers).
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|program| hold::is_plugin(&program)) {
        return exit(hold::program().and_then(|program| hold::run(&program)));
    }
    let result = match Cli::parse().command {
        Command::Run(run) => runtime().and_then(|runtime| runtime.block_on(node::run(*run))),
        Command::Authz(question) => return authz::run(&question),
        Command::Health(question) => return health(&question),
        Command::Uninstall(uninstall) => node::uninstall(&uninstall),
        Command::Ca(Ca::Serve(options)) => {
            runtime().and_then(|runtime| runtime.block_on(ca::serve::run(*options)))
        }
        Command::Ca(Ca::Operation(operation)) => runtime().and_then(|runtime| {
            let said = runtime.block_on(ca::run(&operation))?;
            println!("{said}");
            Ok(())
        }),
        Command::Cluster(Cluster::Uninstall(options)) => {
            runtime().and_then(|runtime| runtime.block_on(node::uninstall_everywhere(&options)))
        }
    };
    exit(result)
}

fn health(question: &Health) -> ExitCode {
    match admin::ask(&question.socket, question.probe) {
        Ok((is_well, said)) => {
            println!("{said}");
            if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            eprintln!("pillion: no agent answers at --socket {}: {e}", question.socket.display());
            ExitCode::from(2)
        }
    }
}

fn exit(result: anyhow::Result<()>) -> ExitCode {
    telemetry::flush_log(LOG_FLUSH);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pillion: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// The node core's runtime. One thread: the work is in the workers, which have their own.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
