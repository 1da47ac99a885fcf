//! What a run shall do: the command line, checked, as plain data.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use pillion_tests::AgentOptions;

use super::baseline;
use super::cases::{CASES, Case, Quick, What};
use super::contestant::{self, External, Settings};
use super::results::{self, Mode};
use crate::workspace;

/// What the command line asks for, unchecked.
#[derive(clap::Args)]
pub struct Wishes {
    /// In about 3 minutes: what a reader asks first, in 3 rounds of a second each (the default)
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Everything, in about half an hour
    #[arg(long)]
    full: bool,
    /// Only cases whose name contains this, also those that --quick leaves out
    #[arg(long, value_name = "SUBSTRING")]
    only: Option<String>,
    /// Only these, e.g. none,pillion
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    contestants: Option<Vec<String>>,
    /// How often each contestant is measured in each case [default: 3, with --full 6]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: Option<u64>,
    /// How long a measurement takes [default: 1, with --full 1.5]
    #[arg(long)]
    seconds: Option<f64>,
    /// One more contestant: a command that brings two pods into a mesh (docs/benchmarks.md)
    #[arg(long, value_name = "NAME=COMMAND")]
    contestant: Vec<External>,
    /// One more flag for Pillion's agents, e.g. --agent-arg=--hbone-congestion=cubic
    #[arg(long, value_name = "FLAG")]
    agent_arg: Vec<String>,
    /// The Envoy to compare with, instead of the one on the PATH or from PyPI
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// Compare the load generator with wrk, h2load, iperf3 and sockperf, too
    #[arg(long)]
    cross_check: bool,
    /// Where the report is written [default: report]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub struct Plan {
    pub mode: Mode,
    pub rounds: usize,
    /// Of memory, each with a bed made anew, which takes long and hardly differs.
    pub memory_rounds: usize,
    pub seconds: f64,
    /// In the order of measuring.
    pub contestants: Vec<String>,
    pub cases: Vec<&'static Case>,
    pub settings: Settings,
    pub cross_check: bool,
    pub out: PathBuf,
}

/// Contestants that `--quick` leaves out.
const NOT_QUICK: [&str; 2] = ["pillion-same-node", "envoy-sidecar-c1"];

impl Plan {
    /// # Errors
    /// When a name is not known, or a number makes no sense.
    pub fn new(wishes: &Wishes) -> Result<Self> {
        let (rounds, memory_rounds, seconds) = if wishes.full { (6, 2, 1.5) } else { (3, 1, 1.0) };
        let custom = wishes.only.is_some() || wishes.contestants.is_some() || !wishes.agent_arg.is_empty();
        let mode = match (custom || wishes.rounds.is_some() || wishes.seconds.is_some(), wishes.full) {
            (true, _) => Mode::Custom,
            (false, true) => Mode::Full,
            (false, false) => Mode::Quick,
        };
        let seconds = wishes.seconds.unwrap_or(seconds);
        ensure!(
            (0.1..=600.0).contains(&seconds),
            "--seconds {seconds} is not possible: take 0.1 to 600 seconds for a measurement"
        );
        let agent = wishes.agent_arg.iter().fold(AgentOptions::default(), |options, arg| options.arg(arg));
        Ok(Self {
            mode,
            rounds: wishes.rounds.map_or(rounds, |rounds| rounds as usize),
            memory_rounds: wishes.rounds.map_or(memory_rounds, |rounds| (rounds as usize).min(memory_rounds)),
            seconds,
            contestants: contestants(wishes)?,
            cases: cases(wishes)?,
            settings: Settings { agent, envoy: wishes.envoy.clone(), external: wishes.contestant.clone() },
            cross_check: wishes.cross_check,
            out: wishes.out.clone().unwrap_or_else(|| workspace::root().join("report")),
        })
    }

    pub fn settings_shown(&self) -> results::Settings {
        results::Settings { mode: self.mode, rounds: self.rounds, seconds: self.seconds }
    }

    /// Those of the contestants that take part in a case.
    pub fn entrants(&self, case: &Case) -> impl Iterator<Item = &str> {
        let quick = self.mode == Mode::Quick;
        self.contestants.iter().map(String::as_str).filter(move |name| takes_part(case, name, quick))
    }
}

fn takes_part(case: &Case, name: &str, quick: bool) -> bool {
    let (baseline, one_node) = (baseline::of(name).is_none(), baseline::is_on_one_node(name));
    let variant = one_node || name == "envoy-sidecar-c1";
    match case.what {
        What::Traffic(_) if !quick => true,
        What::Traffic(_) => match case.quick {
            Quick::No => false,
            Quick::Apart => !one_node,
            Quick::Together => one_node,
            Quick::All => true,
        },
        What::Pods(_) | What::Open { .. } | What::Start => !baseline && !variant,
        // Without hooks, and with them.
        What::Hooks => ["none", "pillion"].contains(&name),
        What::Neighbour(_) => !variant,
    }
}

fn contestants(wishes: &Wishes) -> Result<Vec<String>> {
    let external = wishes.contestant.iter().map(|external| external.name.as_str());
    let known: Vec<&str> = contestant::NAMES.into_iter().chain(external).collect();
    let Some(wanted) = &wishes.contestants else {
        let left_out = |name: &&&str| wishes.full || !NOT_QUICK.contains(*name);
        return Ok(known.iter().filter(left_out).map(|&name| name.to_owned()).collect());
    };
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no contestant is called {unknown:?}: there are {}", known.join(", "));
    }
    // In our order: a report has one.
    Ok(known.iter().filter(|name| wanted.iter().any(|w| w == *name)).map(|&name| name.to_owned()).collect())
}

fn cases(wishes: &Wishes) -> Result<Vec<&'static Case>> {
    let chosen: Vec<&Case> = match &wishes.only {
        Some(part) => CASES.iter().filter(|case| case.name.contains(part.as_str())).collect(),
        None => CASES.iter().filter(|case| wishes.full || case.quick != Quick::No).collect(),
    };
    if let (true, Some(part)) = (chosen.is_empty(), &wishes.only) {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        bail!("no case's name contains {part:?}: there are {}", names.join(", "));
    }
    Ok(chosen)
}
