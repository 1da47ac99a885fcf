//! `cargo xtask soak`: full load for minutes, with connections, labels and certificates coming and going, and
//! whether the agents stay as they were.

mod load;
mod report;
mod rotation;
mod sample;
mod stage;
mod verdict;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::unistd::geteuid;
use pillion_tests::{interrupt, requirements};

use crate::terminal::Progress;
use crate::workspace;
use report::Report;
use sample::{Phase, Sample};
use stage::Stage;

#[derive(clap::Args)]
pub struct Args {
    /// How long the load lasts
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// How long certificates live: they are renewed at 50 to 70 % of it
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(10..))]
    cert_lifetime: u64,
    /// Replace the root of the mesh again and again
    #[arg(long)]
    rotate: bool,
}

/// Time between two samples.
const EVERY: Duration = Duration::from_secs(2);

/// Idle samples before the load: what the agents go back to.
const BASELINE: usize = 5;

/// How long the agents may take until they are idle again: pooled connections are kept for 90 s without a stream.
const IDLE_WITHIN: Duration = Duration::from_secs(150);

/// Runs the soak; an error when something grew, or when a load generator saw an error.
pub fn run(args: &Args) -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "the soak makes network namespaces, cgroups and eBPF programs, which needs root: sudo -E cargo xtask soak"
    );
    interrupt::clean_up_on_signals()?;
    let progress = Progress::new();
    requirements::ensure(load::PACKAGES)?;
    progress.announce("building the agent (release)");
    pillion_tests::agent::binary()?;
    let stage = progress.during("two nodes, five pods, nginx, Redis, iperf3, two agents", || {
        Stage::set(args.cert_lifetime)
    })?;

    let begun = Instant::now();
    let mut samples = Vec::new();
    let mut take = |phase| -> Result<Sample> {
        let sample = Sample::take(&stage, phase, begun.elapsed())?;
        samples.push(sample.clone());
        Ok(sample)
    };
    progress.during("idle, for the baseline", || {
        for _ in 0..BASELINE {
            take(Phase::Before)?;
            thread::sleep(EVERY);
        }
        anyhow::Ok(())
    })?;

    let minutes = args.minutes;
    let loads = progress.during(&format!("load for {minutes} min"), || {
        load::during(&stage, Duration::from_secs(minutes * 60), args.rotate, || {
            take(Phase::Load)?;
            thread::sleep(EVERY);
            Ok(())
        })
    })?;

    progress.during("idle again", || {
        let baseline = verdict::baseline(&samples);
        let deadline = Instant::now() + IDLE_WITHIN;
        loop {
            let sample = Sample::take(&stage, Phase::After, begun.elapsed())?;
            samples.push(sample.clone());
            if verdict::is_idle(&sample, &baseline) || Instant::now() > deadline {
                return anyhow::Ok(());
            }
            thread::sleep(EVERY);
        }
    })?;

    let renewals = stage.renewals();
    drop(stage);
    let report = Report { minutes, renewals, verdicts: verdict::judge(&samples), samples, loads };
    report.print();
    println!("raw samples: {}", report.write(&workspace::root().join("report"))?.display());
    if !report.is_flat() {
        bail!("not flat, or not without errors");
    }
    Ok(())
}
