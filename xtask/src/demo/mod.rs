//! `cargo xtask demo`: the whole mesh on one machine, shown by what is seen.
//!
//! A check is a small function in the file of its subject; it looks at the [`stage`] from outside, as apps and
//! operators do. Nothing here knows how the agent works.

mod addresses;
mod capture;
mod check;
mod clients;
mod cost;
mod direct;
mod identity;
mod keep;
mod lifecycle;
mod policy;
mod protocols;
mod server_hello;
mod stage;
mod telemetry;
mod wire;

use std::io;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use nix::unistd::geteuid;
use pillion_tests::{Agent, interrupt, leftovers, requirements};
use serde_json::json;

use crate::load;
use crate::terminal::{Colours, Progress};
use check::{Check, Finding};
use stage::Stage;

/// Debian's packages that it plays with.
const PACKAGES: &[&str] =
    &["iproute2", "tcpdump", "curl", "dropbear-bin", "nginx-light", "python3", "redis-server", "redis-tools"];

/// In the order of the story that they tell; the wire comes first, because it begins outside the mesh.
const CHECKS: [Check; 17] = [
    wire::CHECK,
    identity::CERTIFICATES,
    identity::BOTH_ENDS,
    direct::CHECK,
    direct::STRICT,
    policy::CHECK,
    policy::OPEN,
    addresses::CHECK,
    capture::LABEL,
    capture::UNTOUCHED,
    capture::REFUSED,
    protocols::ANY_TCP,
    protocols::SERVICE,
    telemetry::BYTES,
    cost::CHECK,
    telemetry::CPU,
    lifecycle::CRASH,
];

#[derive(clap::Args)]
pub struct Args {
    /// Leave it standing after the checks, with commands to try, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Print the findings as one JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// Builds, shows, cleans up; an error when a check failed.
pub fn run(args: &Args) -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "the demo makes network namespaces, cgroups and eBPF programs, which needs root: sudo -E cargo xtask demo"
    );
    // Ctrl-C removes everything from now on.
    interrupt::clean_up_on_signals()?;
    let (begun, progress, colours) = (Instant::now(), Progress::new(), Colours::of(&io::stdout()));
    requirements::ensure(PACKAGES)?;
    progress.announce("building the agent (release); the first time takes some minutes");
    pillion_tests::agent::binary()?;
    load::binary()?;

    let stage =
        progress.during("two nodes, four pods, nginx, Redis, an SSH server, two agents", Stage::set)?;
    let mut findings: Vec<Finding> = CHECKS.iter().map(|check| make(check, &stage, &progress)).collect();
    let mut shown = 0;
    if args.keep {
        shown = show(args, &findings, colours);
        keep::keep(&stage, Colours::of(&io::stderr()))?;
    }
    findings.push(make(&lifecycle::UNINSTALL, &stage, &progress));
    if findings.iter().any(|finding| !finding.is_ok()) {
        stage.agents().into_iter().for_each(show_log);
    }
    findings.push(clean_up(stage, &progress));

    let failed = findings.iter().filter(|finding| !finding.is_ok()).count();
    if args.json {
        let checks: Vec<_> = findings.iter().map(Finding::to_json).collect();
        println!("{}", json!({"ok": failed == 0, "checks": checks}));
    } else {
        show(args, &findings[shown..], colours);
    }
    if failed > 0 {
        bail!("{failed} of {} checks failed", findings.len());
    }
    let took = begun.elapsed().as_secs_f64();
    eprintln!("{} all {} checks held, in {took:.0} s", progress.colours().mark(true), findings.len());
    Ok(())
}

/// Prints findings for people, unless a program reads them; gives how many there are.
fn show(args: &Args, findings: &[Finding], colours: Colours) -> usize {
    if !args.json {
        println!();
        findings.iter().for_each(|finding| print!("{}", finding.show(colours)));
        println!();
    }
    findings.len()
}

fn make(check: &Check, stage: &Stage, progress: &Progress) -> Finding {
    let saw = progress.during(&format!("{:6} {}", check.id, check.what), || (check.look)(stage));
    Finding { id: check.id, what: check.what, saw }
}

/// Ends the stage and looks for what it left.
fn clean_up(stage: Stage, progress: &Progress) -> Finding {
    const WHAT: &str = "the demo removes all that it made";
    let saw = progress.during(&format!("{:6} {WHAT}", "END"), || {
        let id = stage.bed.id();
        let made = leftovers()?.iter().filter(|(owner, _)| *owner == id).count();
        drop(stage);
        let left: Vec<_> = leftovers()?.into_iter().filter(|(owner, _)| *owner == id).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(vec![format!("{made} network namespaces, cgroups and directories named {id}…, none is left")])
    });
    Finding { id: "END", what: WHAT, saw }
}

/// What an agent complained of, for whoever has to find out why a check failed.
fn show_log(agent: &Agent) {
    for line in agent.log().lines().filter(|line| line.contains("WARN") || line.contains("ERROR")) {
        eprintln!("{}: {line}", agent.node().name());
    }
}
