//! `cargo xtask profile`: where the agents' CPU time goes under load.
//!
//! Only the agents' threads are sampled: what apps, generator and the rest of the kernel do is not the mesh's. The
//! kernel's part of a sample is kept, for most of a proxy's time is spent in system calls.

mod build;
mod groups;
mod load;
mod perf;
mod stacks;
mod table;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use inferno::flamegraph;
use nix::unistd::geteuid;
use pillion_tests::{AgentOptions, Pair, interrupt, requirements};

use crate::terminal::Progress;
use crate::{load as generator, workspace};
use load::Case;

#[derive(clap::Args)]
pub struct Args {
    /// What the agents carry
    #[arg(long, value_enum, default_value_t = Case::Http1C32)]
    case: Case,
    /// How long they are sampled, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// More flags for the agents, e.g. --agent-arg=--hbone-congestion=cubic
    #[arg(long)]
    agent_arg: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    ensure!(geteuid().is_root(), "perf and network namespaces need root: sudo -E cargo xtask profile");
    interrupt::clean_up_on_signals()?;
    let progress = Progress::new();
    requirements::ensure(requirements::APPS)?;
    requirements::ensure(&["linux-perf"])?;
    let event = perf::event()?;
    progress.announce("building the agent with frame pointers; the first time takes some minutes");
    let (agent, generator) = (build::agent()?, generator::binary()?);

    let options = AgentOptions::default().program(agent);
    let options = args.agent_arg.iter().fold(options, |options, arg| options.arg(arg.clone()));
    let pair = Pair::with("profile", &options)?;
    let recording = workspace::target().join("profile").join("perf.data");
    let seconds = Duration::from_secs(args.seconds);
    let what = format!("{}, sampled for {} s", args.case.name(), args.seconds);
    let report = progress.during(&what, || {
        let (report, recorded) = args.case.run(&pair, &generator, seconds, || {
            perf::record(&[pair.near.pid(), pair.far.pid()], event, seconds, &recording)
        })?;
        recorded.map(|()| report)
    })?;
    ensure!(
        report.errors == 0,
        "the load failed: {}",
        report.first_error.as_deref().unwrap_or("it does not say why")
    );
    let stacks = stacks::parse(&perf::script(&recording)?)?;
    ensure!(!stacks.is_empty(), "perf has no samples of the agents: they had nothing to do for {seconds:?}");

    let dir = workspace::root().join("report");
    let svg = dir.join(format!("profile-{}.svg", args.case.name()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut options = flamegraph::Options::default();
    options.title = format!("Pillion's agents under {}", args.case.name());
    options.subtitle = Some(format!("{event}, user and kernel, by thread"));
    let folded = stacks::fold(&stacks);
    let file = fs::File::create(&svg).with_context(|| format!("cannot write {}", svg.display()))?;
    flamegraph::from_lines(&mut options, folded.iter().map(String::as_str), file)
        .with_context(|| format!("cannot draw {}", svg.display()))?;
    print!("{}", table::show(&stacks, &report, seconds));
    println!("\nflame graph: {}", svg.display());
    Ok(())
}
