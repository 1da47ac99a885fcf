//! Pillion's own tasks: `cargo xtask …`.

#![forbid(unsafe_code)]

mod acyclic;
mod bench;
mod cluster;
mod demo;
mod deny;
mod fuzz;
mod image;
mod kustomize;
mod load;
mod profile;
mod requirements;
mod semantics;
mod soak;
mod step;
mod terminal;
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
    /// Show the mesh: two nodes, four pods, real applications, and what was seen of each promise (as root)
    ///
    /// Builds the agent, installs the Debian packages that are missing, plays for a few seconds on network
    /// namespaces of its own, and removes them. Progress is on standard error, the findings are on standard output; the exit
    /// status is 1 when a promise did not hold.
    Demo(demo::Args),
    /// Check and test everything: format, lints, dependencies, modules, unit tests, end-to-end tests (as root)
    Test(test::Args),
    /// Feed random bytes to everything that bytes from outside reach
    ///
    /// Builds a program that learns from what its inputs reach into target/fuzz. What is found is kept in target/fuzz/found; the
    /// exit status is 1 then. `cargo xtask test` does the same for ten seconds each, without learning.
    Fuzz(fuzz::Args),
    /// Measure latency, throughput, connections, CPU and memory beside plain TCP (as root)
    Bench(bench::Args),
    /// Load the mesh for minutes and see whether descriptors, tasks, threads and memory stay flat (as root)
    ///
    /// wrk, iperf3 and redis-benchmark between five pods on two nodes, a label that comes and goes, certificates that
    /// are renewed every minute. The raw samples are written to report/; the exit status is 1 when something grew, or
    /// when a load generator saw an error.
    Soak(soak::Args),
    /// Show where the agents' CPU time goes under load: a flame graph and tables (as root)
    ///
    /// Builds the agents with frame pointers into target/profile, loads a captured pair of pods on two nodes, and
    /// records the agents' threads with Linux's perf. Writes report/profile-CASE.svg.
    Profile(profile::Args),
    /// A real Kubernetes on this machine: one control plane, two nodes, each in namespaces of its own (as root)
    ///
    /// The first time builds Kubernetes from its sources, which takes several minutes. See docs/cluster.md.
    Cluster(cluster::Args),
    /// Write Pillion's container image as an OCI archive, for x86-64 and aarch64, without a container engine
    ///
    /// Builds the agent statically, with Rust's targets for musl and a C compiler from PyPI, both fetched where they are
    /// missing. The same commit gives the same archive, byte for byte. See docs/image.md.
    Image(image::Args),
    /// Write deploy/kustomize anew, from the Helm chart
    Kustomize,
    /// Remove what killed tests and demos left behind: network namespaces, cgroups, mounts, files,
    /// the cluster of tests
    Sweep,
    /// Install the Debian packages that the demo and the tests use, where they are missing (as root)
    Requirements,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Soak(args) => soak::run(&args),
        Task::Profile(args) => profile::run(&args),
        Task::Cluster(args) => cluster::run(&args),
        Task::Image(args) => image::run(&args),
        Task::Kustomize => kustomize::run(),
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
    let machines = pillion_tests::cluster::Cluster::sweep()?;
    machines.iter().for_each(|name| println!("removed the machine {name} of the tests' cluster"));
    if swept.is_empty() && machines.is_empty() {
        println!("nothing was left behind");
    }
    Ok(())
}
